// Refusals: expect(condition, parts...) throws std::runtime_error with the message that the parts make.
//
// No streams, and so none of torch's STD_TORCH_CHECK: some compilers link a libstdc++ of their own into the module, whose
// streams then find the facets of another libstdc++ in the locale, and crash where they print a number.

#pragma once

#include <stdexcept>
#include <string>
#include <type_traits>

namespace prune {

inline std::string said(const char* text) { return text; }

template <class Integer, class = std::enable_if_t<std::is_integral_v<Integer>>>
std::string said(Integer value) {
  return std::to_string(value);
}

template <class... Parts>
inline void expect(bool condition, const Parts&... parts) {
  if (!condition) throw std::runtime_error((std::string() + ... + said(parts)));
}

}  // namespace prune
