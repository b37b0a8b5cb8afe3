// topk_masks on CUDA. One ranking over many weights goes as on the CPU: a sample's histogram brackets the threshold; one
// pass writes the masks, lists what lies strictly inside the bracket and counts, chunk by chunk, what lies on its ends;
// the threshold is then found among the listed, or is an end of the bracket (heavy ties), whose ties are handed out to
// chunks in order. What was listed carries its index in its key, so that the order of appending cannot matter. A sample
// that misled sends one block through everything, digit by digit: exact, and slow. Small rankings take that way at once,
// one block each, all in one launch. Decisions stay on the device: the host never waits, and a CUDA graph keeps it all.

#include "topk_classify.cuh"
#include "topk_settle.cuh"

namespace prune {
namespace {

constexpr int64_t kOneBlock = 1 << 15;      // a ranking up to this size is one block's work
constexpr int64_t kOneBlockEach = 1 << 18;  // so is one of many, which blocks do side by side
constexpr int kTableRows = (kArgumentBytes - 64) / 56;

struct Upload {
  Row rows[kTableRows];
  int64_t first[kTableRows];
  int count, begin;
};
static_assert(sizeof(Upload) <= 32764);

__global__ void __launch_bounds__(kThreads) upload_kernel(const __grid_constant__ Upload upload, Row* rows, int64_t* first) {
  for (int i = threadIdx.x; i < upload.count; i += blockDim.x) {
    rows[upload.begin + i] = upload.rows[i];
    first[upload.begin + i] = upload.first[i];
  }
}

#define PRUNE_KERNELS(Rank)                                                \
  template __global__ void living_kernel<Rank>(const Ranking<Rank>);         \
  template __global__ void sample_kernel<Rank>(const Ranking<Rank>, int64_t); \
  template __global__ void bracket_kernel<Rank>(const Ranking<Rank>);        \
  template __global__ void classify_kernel<Rank>(const Ranking<Rank>);       \
  template __global__ void decide_kernel<Rank>(const Ranking<Rank>);         \
  template __global__ void settle_listed_kernel<Rank>(const Ranking<Rank>);  \
  template __global__ void settle_rest_kernel<Rank>(const Ranking<Rank>);    \
  template __global__ void settle_ties_kernel<Rank>(const Ranking<Rank>);
PRUNE_KERNELS(int32_t)
PRUNE_KERNELS(int64_t)

}  // namespace

#ifndef __CUDA_ARCH__

namespace {

int64_t chunks_of(const Row& row) { return (row.n + kChunk - 1) / kChunk; }

// Carves typed arrays, zero at first, out of one allocation.
class Memory {
 public:
  template <class T>
  T* take(T*& pointer, int64_t n) {
    size_ = (size_ + 15) / 16 * 16;
    wishes_.push_back({reinterpret_cast<void**>(&pointer), size_});
    size_ += n * static_cast<int64_t>(sizeof(T));
    return nullptr;
  }
  Tensor allocate(const Tensor& like, int64_t zeroed, cudaStream_t stream) {
    Tensor bytes = torch::stable::new_empty(like, {&size_, 1}, ScalarType::Byte);
    char* base = static_cast<char*>(bytes.data_ptr());
    for (auto& [pointer, offset] : wishes_) *pointer = base + offset;
    if (zeroed > 0) check(cudaMemsetAsync(base, 0, zeroed, stream), "topk_masks");
    return bytes;
  }
  int64_t size() const { return size_; }

 private:
  std::vector<std::pair<void**, int64_t>> wishes_;
  int64_t size_ = 0;
};

template <class Rank>
void rank_many(const std::vector<Row>& host, const Row* rows, const int64_t* first, int begin, int end, int64_t keep,
               bool magnitude, bool has_alive, unsigned long long* counts, const Tensor& like, cudaStream_t stream) {
  Ranking<Rank> k{};
  k.rows = rows + begin;
  k.first = first + begin;
  k.count = end - begin;
  k.keep = keep;
  k.magnitude = magnitude;
  k.has_alive = has_alive;
  k.counts = counts + begin;
  for (int i = begin; i < end; ++i) {
    k.total += host[i].n;
    k.chunks += chunks_of(host[i]);
  }
  check_blocks(k.chunks, "topk_masks");
  int64_t sampled = int64_t{1} << 16;
  while (sampled < k.total / 128 && sampled < int64_t{1} << 21) sampled *= 2;
  const int64_t runs = std::max<int64_t>(std::min(sampled, k.total) / kRun, 1);
  k.room = std::min(k.total, std::max<int64_t>((5 << 20) / static_cast<int64_t>(sizeof(Entry<Rank>)), k.total / 120));
  k.close_room = std::max<int64_t>(k.room / 8, std::min<int64_t>(k.total, 4096));
  Memory memory;
  memory.take(k.state, 1);
  memory.take(k.sample, kSampleBins);
  memory.take(k.sample_top, 2 * kSampleBins);
  memory.take(k.list_bins, kListBins);
  const int64_t zeroed = memory.size();
  memory.take(k.tallies, k.chunks);
  memory.take(k.quotas, k.chunks);
  memory.take(k.list, k.room);
  memory.take(k.close, k.close_room);
  const Tensor bytes = memory.allocate(like, zeroed, stream);  // freed to the stream: a later ranking may reuse it
  const unsigned chunks = static_cast<unsigned>(k.chunks);
  if (k.has_alive) living_kernel<Rank><<<chunks, kThreads, 0, stream>>>(k);
  check_launch("topk_masks living");
  sample_kernel<Rank><<<static_cast<unsigned>((runs * kRun + kThreads - 1) / kThreads), kThreads, 0, stream>>>(k, runs);
  check_launch("topk_masks sample");
  bracket_kernel<Rank><<<1, kWide, 0, stream>>>(k);
  check_launch("topk_masks bracket");
  classify_kernel<Rank><<<chunks, kThreads, 0, stream>>>(k);
  check_launch("topk_masks classify");
  decide_kernel<Rank><<<1, kWide, 0, stream>>>(k);
  check_launch("topk_masks decide");
  settle_listed_kernel<Rank><<<256, kThreads, 0, stream>>>(k);
  check_launch("topk_masks settle listed");
  settle_rest_kernel<Rank><<<1, kWide, 0, stream>>>(k);
  check_launch("topk_masks settle rest");
  settle_ties_kernel<Rank><<<chunks, kThreads, 0, stream>>>(k);
  check_launch("topk_masks settle ties");
}

}  // namespace

Tensor topk_masks_cuda(const std::vector<Tensor>& tensors, const std::vector<int64_t>& keep, bool magnitude,
                       const std::vector<Tensor>& alive, const std::vector<Tensor>& out) {
  const int n = static_cast<int>(tensors.size());
  STD_TORCH_CHECK(n > 0 && out.size() == tensors.size() && (alive.empty() || alive.size() == tensors.size()),
                  "topk_masks: lists of unlike lengths");
  const Place place(tensors[0]);
  const bool alone = n == 1 || keep.size() != 1;
  STD_TORCH_CHECK(keep.size() == static_cast<size_t>(alone ? n : 1), "topk_masks: keep has ", keep.size(), " counts for ", n, " tensors");
  std::vector<Tensor> held;
  std::vector<std::pair<Tensor, Tensor>> back;  // strided masks are written through contiguous ones
  std::vector<Row> rows;
  std::vector<int64_t> first{0};
  const auto contiguous = [&](const Tensor& t) {
    held.push_back(torch::stable::contiguous(t));
    return static_cast<char*>(held.back().data_ptr());
  };
  int64_t start = 0;
  bool any_wide = false;
  for (int t = 0; t < n; ++t) {
    const View x = view(tensors[t]), m = view(out[t]);
    STD_TORCH_CHECK(is_float(x.type), "topk_masks: tensors[", t, "] is no floating-point tensor");
    STD_TORCH_CHECK(m.type == ScalarType::Bool && same_shape(m, x), "topk_masks: out[", t, "] does not fit");
    check_cuda(tensors[t], tensors[0], "topk_masks", "tensors", t);
    check_cuda(out[t], tensors[0], "topk_masks", "out", t);
    Row row{};
    row.x = contiguous(tensors[t]);
    row.mask = contiguous(out[t]);
    if (!m.flat) back.push_back({out[t], held.back()});
    if (!alive.empty()) {
      const View a = view(alive[t]);
      STD_TORCH_CHECK(a.type == ScalarType::Bool && same_shape(a, x), "topk_masks: alive[", t, "] does not fit");
      check_cuda(alive[t], tensors[0], "topk_masks", "alive", t);
      row.alive = contiguous(alive[t]);
    }
    row.n = x.numel;
    row.start = alone ? 0 : start;
    row.type = x.type;
    row.vector = aligned(row.x, x.type == ScalarType::Float ? 16 : 8) && aligned(row.mask, 4) && aligned(row.alive, 4);
    start += x.numel;
    any_wide = any_wide || x.type == ScalarType::Double;
    rows.push_back(row);
    first.push_back(alone ? 0 : first.back() + chunks_of(row));
    if (alone) STD_TORCH_CHECK(keep[t] >= 0 && keep[t] <= x.numel, "topk_masks: keep is ", keep[t], " of ", x.numel);
  }
  if (!alone) STD_TORCH_CHECK(keep[0] >= 0 && keep[0] <= start, "topk_masks: keep is ", keep[0], " of ", start);
  const int64_t count = n;
  Tensor counts = torch::stable::new_zeros(tensors[0], {&count, 1}, ScalarType::Long);
  auto* kept = static_cast<unsigned long long*>(counts.data_ptr());

  Memory memory;
  Row* device_rows = nullptr;
  int64_t* device_first = nullptr;
  memory.take(device_rows, n);
  memory.take(device_first, n);
  held.push_back(memory.allocate(tensors[0], 0, place.stream));
  Upload upload;
  for (int begin = 0; begin < n; begin += kTableRows) {
    upload.begin = begin;
    upload.count = std::min(kTableRows, n - begin);
    std::copy_n(rows.begin() + begin, upload.count, upload.rows);
    std::copy_n(first.begin() + begin, upload.count, upload.first);
    upload_kernel<<<1, kThreads, 0, place.stream>>>(upload, device_rows, device_first);
    check_launch("topk_masks upload");
  }
  const auto many = [&](int begin, int end, int64_t k, bool wide) {
    if (wide)
      rank_many<int64_t>(rows, device_rows, device_first, begin, end, k, magnitude, !alive.empty(), kept, tensors[0], place.stream);
    else
      rank_many<int32_t>(rows, device_rows, device_first, begin, end, k, magnitude, !alive.empty(), kept, tensors[0], place.stream);
  };
  std::vector<Alone> small;
  if (alone) {
    for (int t = 0; t < n; ++t) {
      const bool wide = rows[t].type == ScalarType::Double || rows[t].n >= int64_t{1} << 32;
      if (rows[t].n > kOneBlockEach)
        many(t, t + 1, keep[t], wide);
      else
        small.push_back({t, t + 1, keep[t], wide});
    }
  } else if (start > kOneBlock) {
    many(0, n, keep[0], any_wide || start >= int64_t{1} << 32);
  } else {
    small.push_back({0, n, keep[0], any_wide});
  }
  Alones alones;
  for (size_t begin = 0; begin < small.size(); begin += kAloneRows) {
    const size_t some = std::min<size_t>(kAloneRows, small.size() - begin);
    std::copy_n(small.begin() + begin, some, alones.groups);
    alone_kernel<<<static_cast<unsigned>(some), kWide, 0, place.stream>>>(alones, device_rows, magnitude, kept);
    check_launch("topk_masks alone");
  }
  for (auto& [to, from] : back) torch::stable::copy_(to, from);
  return counts;
}

STABLE_TORCH_LIBRARY_IMPL(prune, CUDA, m) { m.impl("topk_masks", TORCH_BOX(&topk_masks_cuda)); }

#endif  // __CUDA_ARCH__

}  // namespace prune
