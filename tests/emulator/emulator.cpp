// The scheduler of the emulated threads, and the work that they did: basic blocks entered, as the compiler counts them.

#include "emulator.h"

#include <csetjmp>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <utility>
#include <vector>

extern char __start_emulated_shared[], __stop_emulated_shared[];

namespace emulator {
namespace {

constexpr size_t kStack = 128 << 10, kMostThreads = 1024;
enum State { kReady, kAtBarrier, kAtWarp, kDone };

struct Copy {
  void* to;
  const void* from;
  size_t bytes, commit;
};

struct Thread {
  jmp_buf at;
  ucontext_t start;
  bool started = false;
  State state = kReady;
  unsigned mask = 0;
  uint64_t value = 0;
  Site site;
  std::vector<Copy> copies;
  size_t commits = 0;
};

std::vector<Thread> all(kMostThreads);
uint64_t brought[kMostThreads];  // to the warp's last operation
jmp_buf scheduler;
unsigned current, threads;
bool any;  // of what came to the last barrier
std::string problem;
const std::function<void()>* body;
uint64_t random_state = 1, steps, critical;
int processors = 3;

uint64_t random(uint64_t below) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (random_state >> 33) % below;
}

template <class T>
void shuffle(std::vector<T>& items) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random(i)]);
}

__attribute__((noinline)) void park(State state, const Site& site) {
  all[current].state = state;
  all[current].site = site;
  if (_setjmp(all[current].at) == 0) _longjmp(scheduler, 1);
}

void forever() {  // a fiber, used again by block after block
  for (;;) {
    (*body)();
    if (!all[current].copies.empty()) fail("a thread ends before its asynchronous copies");
    park(kDone, Site::current());
  }
}

__attribute__((noinline)) void resume(unsigned t) {
  static char* const stacks = static_cast<char*>(mmap(nullptr, kMostThreads * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  current = t;
  threadIdx.x = t;
  if (_setjmp(scheduler) != 0) return;
  if (all[t].started) _longjmp(all[t].at, 1);
  all[t].started = true;
  getcontext(&all[t].start);
  all[t].start.uc_stack = {stacks + t * kStack, 0, kStack};
  makecontext(&all[t].start, forever, 0);
  setcontext(&all[t].start);
}

std::string where(unsigned t) {
  const Thread& x = all[t];
  const std::string name = "thread " + std::to_string(t) + " of block " + std::to_string(blockIdx.x);
  if (x.state == kDone) return name + " has exited";
  return name + (x.state == kAtBarrier ? " waits at the barrier " : " waits for its warp at ") + x.site.file_name() + ":" + std::to_string(x.site.line());
}

bool same_site(const Thread& a, const Thread& b) {
  return a.site.line() == b.site.line() && a.site.column() == b.site.column() && std::strcmp(a.site.file_name(), b.site.file_name()) == 0;
}

// The first thread that keeps t from going on, or t.
unsigned obstacle(unsigned t) {
  const bool warp = all[t].state == kAtWarp;
  const unsigned first = warp ? t / 32 * 32 : 0, end = warp ? first + 32 : threads;
  for (unsigned u = first; u < end; ++u) {
    if (warp && (all[t].mask >> (u - first) & 1) == 0) continue;
    if (u >= threads || all[u].state != all[t].state || !same_site(all[u], all[t]) || (warp && all[u].mask != all[t].mask)) return u;
  }
  return t;
}

void run_block() {
  std::memset(__start_emulated_shared, 0xAB, __stop_emulated_shared - __start_emulated_shared);
  std::vector<unsigned> ready(threads);
  for (unsigned t = 0; t < threads; ++t) {
    ready[t] = t;
    all[t].state = kReady;
  }
  unsigned done = 0, at_barrier = 0;
  while (!ready.empty() && problem.empty()) {
    std::swap(ready[random(ready.size())], ready.back());
    const unsigned t = ready.back();
    ready.pop_back();
    resume(t);
    Thread& x = all[t];
    if (x.state == kReady) ready.push_back(t);
    if (x.state == kDone) ++done;
    if (x.state == kAtWarp && obstacle(t) == t) {
      for (unsigned l = 0; l < 32; ++l) {
        if ((x.mask >> l & 1) == 0) continue;
        brought[t / 32 * 32 + l] = all[t / 32 * 32 + l].value;
        all[t / 32 * 32 + l].state = kReady;
        ready.push_back(t / 32 * 32 + l);
      }
    }
    if (x.state == kAtBarrier && ++at_barrier == threads && obstacle(t) == t) {
      any = false;
      for (unsigned u = 0; u < threads; ++u) {
        any = any || all[u].value != 0;
        all[u].state = kReady;
        ready.push_back(u);
      }
      at_barrier = 0;
    }
  }
  if (done == threads || !problem.empty()) return;
  for (unsigned t = 0; t < threads && problem.empty(); ++t)
    if (all[t].state != kDone && obstacle(t) != t) problem = where(t) + ", but " + (obstacle(t) < threads ? where(obstacle(t)) : "a lane of its mask is no thread");
}

}  // namespace

bool run(unsigned blocks, unsigned block_threads, const std::function<void()>& kernel) {
  problem = blocks == 0 || block_threads == 0 || block_threads > kMostThreads ? "an empty grid or too many threads" : "";
  body = &kernel;
  threads = block_threads;
  gridDim.x = blocks;
  blockDim.x = threads;
  std::vector<unsigned> order(blocks);
  for (unsigned b = 0; b < blocks; ++b) order[b] = b;
  shuffle(order);
  uint64_t longest = 0;
  for (unsigned b : order) {
    if (!problem.empty()) break;
    blockIdx.x = b;
    const uint64_t before = steps;
    run_block();
    longest = std::max(longest, steps - before);
  }
  critical += longest;
  if (!problem.empty()) all = std::vector<Thread>(kMostThreads);  // they stopped anywhere
  return problem.empty();
}

const char* failure() { return problem.c_str(); }
int multiprocessors() { return processors; }
void fail(const char* what) {
  if (problem.empty()) problem = what;
}
unsigned lane() { return current % 32; }
void perhaps_let_others_go() {
  if (random(8) == 0) park(kReady, Site::current());
}

bool barrier(bool value, const Site& site) {
  all[current].value = value;
  park(kAtBarrier, site);
  return any;
}

const uint64_t* together(unsigned mask, uint64_t value, const Site& site) {
  if ((mask >> lane() & 1) == 0) fail("a lane calls for a warp's operation without being in its mask");
  all[current].mask = mask;
  all[current].value = value;
  park(kAtWarp, site);
  return brought + current / 32 * 32;
}

void copy_later(void* to, const void* from, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) fail("an asynchronous copy is not aligned");
  std::memset(to, 0xAB, bytes);
  all[current].copies.push_back({to, from, bytes, all[current].commits});
}

void commit_copies() { ++all[current].commits; }

void wait_for_copies(size_t but) {
  Thread& x = all[current];
  std::erase_if(x.copies, [&](const Copy& c) {
    const bool arrives = c.commit + but < x.commits;
    if (arrives) std::memcpy(c.to, c.from, c.bytes);
    return arrives;
  });
}

}  // namespace emulator

// What the compiler calls: at each basic block, and where an address is not aligned for what is read or written there.
extern "C" void __sanitizer_cov_trace_pc() { ++emulator::steps; }
extern "C" void __ubsan_handle_type_mismatch_v1(const void* place, const void*) {
  struct Source {
    const char* file;
    uint32_t line, column;
  };
  const auto& source = *static_cast<const Source*>(place);
  emulator::fail((std::string("an address is not aligned at ") + source.file + ":" + std::to_string(source.line)).c_str());
}

// What the tests call.
extern "C" __attribute__((visibility("default"))) void emulator_set(uint64_t seed, int multiprocessors) {
  emulator::random_state = seed;
  emulator::processors = multiprocessors;
}
extern "C" __attribute__((visibility("default"))) void emulator_work(uint64_t* work) {  // since the last call: of all, of the longest blocks
  work[0] = std::exchange(emulator::steps, 0);
  work[1] = std::exchange(emulator::critical, 0);
}
