// topk_masks on CUDA. One ranking over many weights: the bracket's ends are found digit by digit in a sample; one pass
// writes the masks, lists what lies strictly between the ends and counts, chunk by chunk, what lies on them; the threshold
// is then found among the listed, or is an end of the bracket (heavy ties), whose ties are handed out to chunks in order.
// What was listed carries its index in its key, so that the order of appending cannot matter. Where everything is few the
// sample is all of it, and the bracket the threshold itself. A sample that misled (seven standard deviations) sends one
// block through everything, digit by digit: exact, and slow. Small rankings take that way at once, one block each, all in
// one launch. Decisions stay on the device: the host never waits, and a CUDA graph keeps it all.

#include "topk_narrow.cuh"
#include "topk_settle.cuh"

namespace prune {
namespace {

#ifndef PRUNE_ONE_BLOCK
#define PRUNE_ONE_BLOCK (1 << 15)  // a ranking up to this size is one block's work
#endif
#ifndef PRUNE_WHOLE_SAMPLE
#define PRUNE_WHOLE_SAMPLE (1 << 20)  // up to this many 32-bit ranks the sample is everything
#endif
#ifndef PRUNE_LEAST_SAMPLE
#define PRUNE_LEAST_SAMPLE (1 << 16)
#endif
#ifndef PRUNE_MEMORY
#define PRUNE_MEMORY (7 << 20)  // bytes of a ranking beside 1 % of its input
#endif

constexpr int64_t kOneBlockEach = 8 * int64_t{PRUNE_ONE_BLOCK};  // of many rankings, which blocks do side by side
constexpr int kManyRows = (kArgumentBytes - 64) / (sizeof(Row) + 8);
static_assert(sizeof(Upload<kManyRows>) <= 32764);

#define PRUNE_KERNELS(Rank)                                             \
  template __global__ void sample_kernel<Rank>(const Ranking<Rank>);      \
  template __global__ void narrow_kernel<Rank>(const Ranking<Rank>, int); \
  template __global__ void classify_kernel<Rank>(const Ranking<Rank>);    \
  template __global__ void settle_kernel<Rank>(const Ranking<Rank>);
PRUNE_KERNELS(int32_t)
PRUNE_KERNELS(int64_t)
#define PRUNE_UPLOADS(rows)                                                                                                  \
  template __global__ void prepare_kernel<rows>(const __grid_constant__ Upload<rows>, Row*, Chunk*, unsigned long long*, uint4*, int64_t);
PRUNE_UPLOADS(kFewRows)
PRUNE_UPLOADS(kManyRows)
template __global__ void alone_kernel<kFewGroups>(const __grid_constant__ Alones<kFewGroups>, const Row*, bool, unsigned long long*);
template __global__ void alone_kernel<kManyGroups>(const __grid_constant__ Alones<kManyGroups>, const Row*, bool, unsigned long long*);

}  // namespace

#ifndef __CUDA_ARCH__

namespace {

int64_t chunks_of(const Row& row) { return (row.n + row.chunk - 1) / row.chunk; }

// Carves typed arrays out of one allocation.
class Memory {
 public:
  template <class T>
  void take(T*& pointer, int64_t n) {
    size_ = (size_ + 15) / 16 * 16;
    wishes_.push_back({reinterpret_cast<void**>(&pointer), size_});
    size_ += n * static_cast<int64_t>(sizeof(T));
  }
  Tensor allocate(const Tensor& like) {
    Tensor bytes = torch::stable::new_empty(like, {&size_, 1}, ScalarType::Byte);
    char* base = static_cast<char*>(bytes.data_ptr());
    for (auto& [pointer, offset] : wishes_) *pointer = base + offset;
    return bytes;
  }
  int64_t size() const { return size_; }

 private:
  std::vector<std::pair<void**, int64_t>> wishes_;
  int64_t size_ = 0;
};

template <int kRows>
void upload_slices(const std::vector<Row>& host, Row* rows, Chunk* chunk, unsigned long long* counts, void* cleared, int64_t words,
                   cudaStream_t stream) {
  Upload<kRows> upload;
  int64_t first = 0;
  for (size_t begin = 0; begin < host.size(); begin += kRows) {
    upload.begin = static_cast<int>(begin);
    upload.count = static_cast<int>(std::min<size_t>(kRows, host.size() - begin));
    std::copy_n(host.begin() + upload.begin, upload.count, upload.rows);
    for (int i = 0; i < upload.count; ++i) {
      upload.first[i] = first;
      first += chunks_of(upload.rows[i]);
    }
    upload.first[upload.count] = first;
    const int64_t blocks = std::max<int64_t>(std::min(upload.count, 128), std::min<int64_t>(words / kThreads + 1, 128));
    launch("topk_masks", prepare_kernel<kRows>, blocks, kThreads, stream, upload, rows, chunk, counts, static_cast<uint4*>(cleared), words);
    words = 0;
  }
}

void upload(const std::vector<Row>& host, Row* rows, Chunk* chunk, unsigned long long* counts, void* cleared, int64_t words, cudaStream_t stream) {
  if (host.size() <= kFewRows)
    upload_slices<kFewRows>(host, rows, chunk, counts, cleared, words, stream);
  else
    upload_slices<kManyRows>(host, rows, chunk, counts, cleared, words, stream);
}

template <class Rank>
void rank_many(const std::vector<Row>& host, int64_t keep, bool magnitude, unsigned long long* counts, const Tensor& like, cudaStream_t stream) {
  Ranking<Rank> k{};
  Row* rows = nullptr;
  Chunk* chunk = nullptr;
  int64_t input = 0;
  k.count = static_cast<int>(host.size());
  k.keep = keep;
  k.magnitude = magnitude;
  k.counts = counts;
  for (const Row& row : host) {
    k.total += row.n;
    k.chunks += chunks_of(row);
    input += row.n * (row.type == ScalarType::Double ? 8 : row.type == ScalarType::Float ? 4 : 2);
  }
  expect(k.chunks < 2147483648 - 65536, "topk_masks: too many chunks in one ranking: ", k.chunks);
  const int64_t entry = sizeof(Entry<Rank>), most = (PRUNE_MEMORY + input / 100) / (entry + entry / 4);
  if (k.total * static_cast<int64_t>(sizeof(Rank)) <= 4 * int64_t{PRUNE_WHOLE_SAMPLE}) {
    k.sample_size = k.total;
    k.room = std::max<int64_t>((k.total * sizeof(Rank) + entry - 1) / entry, 1);
    k.close_room = 1;
  } else {
    k.room = std::min(k.total, most);
    k.close_room = std::max<int64_t>(k.room / 4, 1);
    // so many that the expected list, 14 standard deviations of a sampled share wide, fills at most 7 tenths of its room
    const double share = static_cast<double>(keep) / static_cast<double>(k.total);
    const double need = 20.0 * static_cast<double>(k.total) / static_cast<double>(k.room);
    const int64_t sampled = std::max<int64_t>(static_cast<int64_t>(need * need * share * (1 - share)), k.total / 128);
    const int64_t fits = std::min(k.total / 8, k.room * entry / static_cast<int64_t>(sizeof(Rank)));
    k.runs = std::max<int64_t>(std::min(std::max<int64_t>(sampled, PRUNE_LEAST_SAMPLE), fits) / 4, 1);
    k.sample_size = 4 * k.runs;
  }
  Memory memory;
  memory.take(k.state, 1);
  memory.take(k.digits, kDigits<Rank> * 2 * kDigitBins);
  memory.take(k.list_bins, kListBins);
  const int64_t cleared = (memory.size() + 15) / 16;
  memory.take(rows, k.count);
  memory.take(chunk, k.chunks);
  memory.take(k.tallies, k.chunks);
  memory.take(k.list, k.room);
  memory.take(k.close, k.close_room);
  const Tensor bytes = memory.allocate(like);  // freed to the stream: a later ranking may reuse it
  k.rows = rows;
  k.chunk = chunk;
  k.sample = reinterpret_cast<Bits<Rank>*>(k.list);
  upload(host, rows, chunk, counts, bytes.data_ptr(), cleared, stream);
  launch("topk_masks", sample_kernel<Rank>, k.runs == 0 ? k.chunks : (k.runs + kThreads - 1) / kThreads, kThreads, stream, k);
  for (int d = 1; d < kDigits<Rank>; ++d)
    launch("topk_masks", narrow_kernel<Rank>, (k.sample_size + kSampleTurns * kThreads - 1) / (kSampleTurns * kThreads), kThreads, stream, k, d);
  const int64_t processors = multiprocessors();
  launch("topk_masks", classify_kernel<Rank>, std::min(k.chunks, processors * kClassifiers), kThreads, stream, k);
  launch("topk_masks", settle_kernel<Rank>, std::min(k.chunks, processors * 2), kSettlers, stream, k);
}

template <int kGroups>
void rank_alone(const std::vector<Alone>& groups, const Row* rows, bool magnitude, unsigned long long* counts, cudaStream_t stream) {
  Alones<kGroups> alones;
  for (size_t begin = 0; begin < groups.size(); begin += kGroups) {
    const size_t some = std::min<size_t>(kGroups, groups.size() - begin);
    std::copy_n(groups.begin() + static_cast<int64_t>(begin), some, alones.groups);
    launch("topk_masks", alone_kernel<kGroups>, static_cast<int64_t>(some), kWide, stream, alones, rows, magnitude, counts);
  }
}

// The lengths of a slice of the first dimension that is stored transposed, or 1 and 1: the layout of channels_last.
std::pair<int, int> transposed(const View& x) {
  if (x.flat || x.dim < 3 || x.sizes[0] == 0 || x.numel == 0) return {1, 1};
  const int64_t a = x.sizes[1], slice = x.numel / x.sizes[0];
  if (slice > kChunk) return {1, 1};
  int64_t expected = a;
  for (int64_t d = x.dim - 1; d >= 2; --d) {
    if (x.sizes[d] != 1 && x.strides[d] != expected) return {1, 1};
    expected *= x.sizes[d];
  }
  if ((a != 1 && x.strides[1] != 1) || (x.sizes[0] != 1 && x.strides[0] != slice)) return {1, 1};
  return {static_cast<int>(a), static_cast<int>(slice / a)};
}

}  // namespace

Tensor topk_masks_cuda(const std::vector<Tensor>& tensors, const std::vector<int64_t>& keep, bool magnitude,
                       const std::vector<Tensor>& alive, const std::vector<Tensor>& out) {
  const int n = static_cast<int>(tensors.size());
  expect(n > 0 && out.size() == tensors.size() && (alive.empty() || alive.size() == tensors.size()),
         "topk_masks: lists of unlike lengths");
  const Place place(tensors[0]);
  const bool each = n == 1 || keep.size() != 1;  // a ranking for each tensor
  expect(keep.size() == static_cast<size_t>(each ? n : 1), "topk_masks: keep has ", keep.size(), " counts for ", n, " tensors");
  int64_t total = 0;
  for (const Tensor& t : tensors) total += t.numel();
  std::vector<Tensor> held;
  std::vector<std::pair<Tensor, Tensor>> back;  // masks that cannot be written as they lie are written through others
  std::vector<Row> rows;
  int64_t start = 0;
  bool any_wide = false;
  for (int t = 0; t < n; ++t) {
    const View x = view(tensors[t]), m = view(out[t]);
    expect(is_float(x.type), "topk_masks: tensors[", t, "] is no floating-point tensor");
    expect(m.type == ScalarType::Bool && same_shape(m, x), "topk_masks: out[", t, "] does not fit");
    check_cuda(tensors[t], tensors[0], "topk_masks", "tensors", t);
    check_cuda(out[t], tensors[0], "topk_masks", "out", t);
    bool alike = same_layout(m, x);
    if (!alive.empty()) {
      const View a = view(alive[t]);
      expect(a.type == ScalarType::Bool && same_shape(a, x), "topk_masks: alive[", t, "] does not fit");
      check_cuda(alive[t], tensors[0], "topk_masks", "alive", t);
      alike = alike && same_layout(a, x);
    }
    const auto [a, b] = alike ? transposed(x) : std::pair<int, int>{1, 1};
    const auto read = [&](const Tensor& y) {
      if (b != 1 || y.is_contiguous()) return static_cast<char*>(y.data_ptr());
      held.push_back(torch::stable::contiguous(y));
      return static_cast<char*>(held.back().data_ptr());
    };
    Row row{};
    row.x = read(tensors[t]);
    row.alive = alive.empty() ? nullptr : read(alive[t]);
    if (b != 1 || m.flat) {
      row.mask = m.data;
    } else {
      held.push_back(torch::stable::new_empty(out[t], {m.sizes, static_cast<size_t>(m.dim)}));
      row.mask = static_cast<char*>(held.back().data_ptr());
      back.push_back({out[t], held.back()});
    }
    row.n = x.numel;
    row.start = each ? 0 : start;
    row.a = a;
    row.b = b;
    const int64_t chunk = chunk_for(each ? x.numel : total, kChunk, kSmallChunk), slice = b == 1 ? 1 : int64_t{a} * b;
    row.chunk = static_cast<int>(slice > chunk ? slice : chunk / slice * slice);
    row.type = x.type;
    row.vector = row.chunk % 4 == 0 && aligned(row.x, x.type == ScalarType::Float || x.type == ScalarType::Double ? 16 : 8) &&
                 aligned(row.mask, 4) && aligned(row.alive, 4);
    start += x.numel;
    any_wide = any_wide || x.type == ScalarType::Double;
    rows.push_back(row);
    if (each) expect(keep[t] >= 0 && keep[t] <= x.numel, "topk_masks: keep is ", keep[t], " of ", x.numel);
  }
  if (!each) expect(keep[0] >= 0 && keep[0] <= start, "topk_masks: keep is ", keep[0], " of ", start);
  const int64_t count = n;
  Tensor counts = torch::stable::new_empty(tensors[0], {&count, 1}, ScalarType::Long);
  auto* kept = static_cast<unsigned long long*>(counts.data_ptr());
  const auto many = [&](const std::vector<Row>& some, int64_t k, bool wide, unsigned long long* own) {
    if (wide)
      rank_many<int64_t>(some, k, magnitude, own, tensors[0], place.stream);
    else
      rank_many<int32_t>(some, k, magnitude, own, tensors[0], place.stream);
  };
  std::vector<Alone> alone;
  if (each) {
    for (int t = 0; t < n; ++t)
      if (rows[t].n <= kOneBlockEach) alone.push_back({t, t + 1, keep[t], rows[t].type == ScalarType::Double});
  } else if (total <= PRUNE_ONE_BLOCK) {
    alone.push_back({0, n, keep[0], any_wide});
  }
  if (!alone.empty()) {
    Memory memory;
    Row* device_rows = nullptr;
    memory.take(device_rows, n);
    held.push_back(memory.allocate(tensors[0]));
    upload(rows, device_rows, nullptr, kept, nullptr, 0, place.stream);
    if (alone.size() <= kFewGroups)
      rank_alone<kFewGroups>(alone, device_rows, magnitude, kept, place.stream);
    else
      rank_alone<kManyGroups>(alone, device_rows, magnitude, kept, place.stream);
  }
  if (!each && total > PRUNE_ONE_BLOCK) many(rows, keep[0], any_wide || total >= int64_t{1} << 32, kept);
  if (each) {
    for (int t = 0; t < n; ++t)
      if (rows[t].n > kOneBlockEach) many({rows[t]}, keep[t], rows[t].type == ScalarType::Double || rows[t].n >= int64_t{1} << 32, kept + t);
  }
  for (auto& [to, from] : back) torch::stable::copy_(to, from);
  return counts;
}

STABLE_TORCH_LIBRARY_IMPL(prune, CUDA, m) { m.impl("topk_masks", TORCH_BOX(&topk_masks_cuda)); }

#endif  // __CUDA_ARCH__

}  // namespace prune
