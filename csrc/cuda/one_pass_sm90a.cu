// The alignment loss in one pass on Hopper: O = sum_c exp(x_c - max) t_c / |t_c| with x = s cos(z, t_c).
//
// A block owns 64 rows of z, or a cluster of two blocks 128. Tiles of 64 class texts (64, D) stream past them. A tile is
// key and value at once. Blocks of a cluster share each tile: each loads one half of its columns for both. Above D = 512
// two blocks (parts) divide the columns of z, T and O, and exchange their shares of S.
//
//   producer   one thread of warpgroup 2 copies tiles, as far ahead as there are stages
//   consumers  warpgroups 0 and 1 take tiles in turn, a and b of a pair:
//
//       warpgroup 0                             warpgroup 1
//       S_a = z T_a^T, max_a   -- max_a -->     S_b = z T_b^T, max_b
//       P_a = exp(S_a - max_a)                  P_b = exp(S_b - max_b)
//       O_left += P_a T_a      <-- P_b, max_b   O_right += P_b T_b
//       O_left += P_b T_b      -- P_a -->       O_right += P_a T_a
//
// So one warpgroup's exponentials run beside the other's products. A warpgroup's own P stays in registers, and the other
// one reads it from shared memory. Each holds half of O's columns: 128 registers a thread for D = 512.
//
// Clusters divide all tiles of all rows evenly, so a row's sums come in parts (slots), which finish (rows_align.cu) adds.
// Maximum and sums leave the label's class out. D is at most 1024, in chunks of 64 columns.
#include "kernels.h"
#include "tiles.cuh"

namespace mmcl { namespace cuda {
namespace {

constexpr int kRows = 64, kThreads = 384;
constexpr int kSharedLimit = 227 * 1024, kMailBytes = kRows * 32 * 4;  // half of a tile's S
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
// Places in shared memory. A block has NC chunks of 64 columns, and a row of z has PARTS blocks.
template <int NC, int PARTS> struct Shared {
  static constexpr int kStages = NC == 8 ? 2 : NC == 6 ? 3 : NC == 4 ? 4 : 6;
  static constexpr int kHalf = NC / 2 * kTile;  // bytes of the left or right columns of a tile
  static constexpr int kZ = 0, kStage = NC * kTile, kP = kStage + kStages * NC * kTile, kMail = kP + 2 * kTile,
                       kMax = kMail + (PARTS - 1) * 2 * kMailBytes, kBars = kMax + 2 * kRows * 4;
  // Barriers: z is full, z is empty; for each warpgroup: it has mail, the other block has read its mail; then for each
  // stage and half: it is full, it is empty.
  static constexpr int kBytes = kBars + 8 * (6 + 4 * kStages);
  static constexpr int kAsked = kBytes + 1008;  // the base may lie up to 1008 bytes before a multiple of 1024
  static_assert(NC % 2 == 0 && kAsked <= kSharedLimit);
  uint32_t base;
  MMCL_DEVICE uint32_t z() const { return base + kZ; }
  MMCL_DEVICE uint32_t stage(int s) const { return base + kStage + s * NC * kTile; }
  MMCL_DEVICE uint32_t p(int group) const { return base + kP + group * kTile; }
  MMCL_DEVICE uint32_t high(int group, int row) const { return base + kMax + (group * kRows + row) * 4; }
  MMCL_DEVICE uint32_t z_full() const { return base + kBars; }
  MMCL_DEVICE uint32_t z_empty() const { return base + kBars + 8; }
  MMCL_DEVICE uint32_t mail(int group) const { return base + kMail + group * kMailBytes; }
  MMCL_DEVICE uint32_t has_mail(int group) const { return base + kBars + 16 + 8 * group; }
  MMCL_DEVICE uint32_t mail_was_read(int group) const { return base + kBars + 32 + 8 * group; }
  MMCL_DEVICE uint32_t full(int s, int half) const { return base + kBars + 48 + 8 * (2 * s + half); }
  MMCL_DEVICE uint32_t empty(int s, int half) const { return full(s + kStages, half); }
};
enum Named : uint32_t { kMaxOfA = 1, kPOfB, kPOfA, kSums };  // named barriers of the two warpgroups
constexpr uint32_t kConsumers = 256;

// A cluster's share of the tiles of all rows: segments of tiles of one group of rows.
struct Segment { int group, first, count; };
struct Walk {
  int tiles, group, first, left;
  MMCL_DEVICE Walk(const OnePass& a, int cluster) : tiles(int((a.classes + 63) / 64)) {
    const int64_t rows = int64_t(kRows) * a.row_blocks, total = (a.rows + rows - 1) / rows * tiles;
    const int64_t at = cluster * a.tiles_per_cluster;
    group = int(at / tiles);
    first = int(at - int64_t(group) * tiles);
    left = int(min(a.tiles_per_cluster, total - at));
  }
  MMCL_DEVICE bool next(Segment& s) {
    if (left <= 0) return false;
    s = {group, first, min(left, tiles - first)};
    left -= s.count;
    first = 0;
    ++group;
    return true;
  }
};

template <int NC, int PARTS>
MMCL_DEVICE void produce(const Shared<NC, PARTS>& shared, const CUtensorMap* map_z, const CUtensorMap* map_t, const OnePass& a,
                         int cluster, int me, int part) {
  const uint16_t everyone = uint16_t((1 << (a.row_blocks - 1) * PARTS | 1) << part);  // with these columns
  using Stages = Shared<NC, PARTS>;
  int n = 0, segments = 0;  // tiles and segments so far
  Walk walk(a, cluster);
  for (Segment segment; walk.next(segment); ++segments) {
    bar_wait(shared.z_empty(), (segments + 1) & 1);
    bar_expect(shared.z_full(), NC * kTile);
#pragma unroll 1
    for (int k = 0; k < NC; ++k)
      copy_box(shared.z() + k * kTile, map_z, (part * NC + k) * 64, (segment.group * a.row_blocks + me) * kRows, shared.z_full());
    for (int i = 0; i < segment.count; ++i, ++n) {
      const int s = n % Stages::kStages, parity = (n / Stages::kStages + 1) & 1;
#pragma unroll 1
      for (int turn = 0; turn < 3 - a.row_blocks; ++turn) {
        const int half = (me & 1) ^ turn;
        bar_wait(shared.empty(s, half), parity);
        bar_expect(shared.full(s, half), Stages::kHalf);
        if (a.row_blocks == 2) bar_expect(shared.full(s, 1 - half), Stages::kHalf);  // the other block loads it
#pragma unroll 1
        for (int k = half * (NC / 2); k < (half + 1) * (NC / 2); ++k)
          copy_box(shared.stage(s) + k * kTile, map_t, (part * NC + k) * 64, (segment.first + i) * 64,
                   shared.full(s, half), everyone);
      }
    }
  }
}

template <typename T, int NC, int PARTS> struct Consumer {
  static constexpr int kStages = Shared<NC, PARTS>::kStages;
  // An update of the maximum multiplies O. bfloat16 has the range to wait until it grows by a factor of 256.
  static constexpr float kSlack = std::is_same_v<T, __nv_bfloat16> ? 8.f : 0.f;
  const Shared<NC, PARTS> shared;
  const OnePass& a;
  const int group, thread, quad, r0;  // this thread's rows in the accumulators: r0 and r0 + 8
  float o[NC * 16], s[32];
  uint32_t p[4][4];
  float high[2], sum[2], row_scale[2];  // logits and maxima are in powers of two
  int label[2];

  MMCL_DEVICE Consumer(const Shared<NC, PARTS>& shared, const OnePass& a)
      : shared(shared), a(a), group(uniform(int(threadIdx.x) / 128)), thread(threadIdx.x % 128), quad(thread % 4),
        r0(thread / 32 * 16 + thread % 32 / 4) {}

  MMCL_DEVICE int part() const { return PARTS == 1 ? 0 : int(cluster_rank()) % PARTS; }
  MMCL_DEVICE void begin(int64_t row0) {
    const float scale = a.scale_at ? *a.scale_at : a.scale;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = row0 + r0 + 8 * h;
      const bool live = row < a.rows;
      row_scale[h] = live ? a.inv_z[row] * scale * kLog2e : 0.f;
      const int64_t y = live ? a.labels[row] : -1;
      label[h] = y >= 0 && y < a.classes ? int(y) : -1;
      high[h] = kLow;
      sum[h] = 0.f;
    }
#pragma unroll
    for (int k = 0; k < NC * 16; ++k) o[k] = 0.f;
  }

  // 1 / |t| of this thread's classes of a tile; 0 behind the last class.
  MMCL_DEVICE void load_units(int tile, float (&unit)[16]) const {
    const float* inv = a.inv_t + int64_t(tile) * 64;
    const int64_t left = a.classes - int64_t(tile) * 64;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const int c = j / 2 * 8 + 2 * quad + j % 2;
      unit[j] = c < left ? inv[c] : 0.f;
    }
  }
  // S = z T^T of the tile in a stage, scaled to logits, and each row's maximum. s[4 j + 2 h + b] belongs to row r0 + 8 h
  // and class 8 j + 2 quad + b of the tile. unit: 1 / |t| of this thread's classes.
  MMCL_DEVICE void logits(int n, int tile, int64_t row0, float (&unit)[16], float (&top)[2]) {
    const uint64_t z = k_major(shared.z()), t = k_major(shared.stage(n % kStages));
    const int parity = n / kStages & 1, left = int(min(a.classes - int64_t(tile) * 64, int64_t(64)));
    if constexpr (PARTS == 1) load_units(tile, unit);  // while the product runs
    hold(s);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bar_wait(shared.full(n % kStages, half), parity);
      wgmma_fence();
#pragma unroll
      for (int k = half * NC * 2; k < (half + 1) * NC * 2; ++k) {
        const uint32_t at = k / 4 * kTile + k % 4 * 32;
        Wgmma<T, 64, 0>::run(s, advance(z, at), advance(t, at), k > 0);
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
    hold(s);
    if constexpr (PARTS == 2) {
      add_other_part();
      load_units(tile, unit);  // there are no registers for it before
    }
#pragma unroll
    for (int k = 0; k < 32; ++k) s[k] *= row_scale[k / 2 % 2] * unit[k / 4 * 2 + k % 2];
    if (__any_sync(0xffffffffu, left < 64 || label[0] >> 6 == tile || label[1] >> 6 == tile)) {
#pragma unroll
      for (int k = 0; k < 32; ++k) {
        const int h = k / 2 % 2, c = k / 4 * 8 + 2 * quad + k % 2;
        const bool is_label = tile * 64 + c == label[h];
        if (is_label && part() == 0) a.label_logit[row0 + r0 + 8 * h] = s[k] * kLn2;
        if (is_label || c >= left) s[k] = kNever;  // finish adds the label
      }
    }
    top[0] = top[1] = kNever;
#pragma unroll
    for (int k = 0; k < 32; ++k) top[k / 2 % 2] = fmaxf(top[k / 2 % 2], s[k]);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 1));
      top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 2));
    }
  }
  // Adds the S of the other half of the columns. Both blocks add the same two numbers, and so go on with the same bits.
  MMCL_DEVICE void add_other_part() {
    const uint32_t there = cluster_rank() ^ 1;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // A tile takes two mails, so the half is also the parity of the barriers.
      bar_wait(shared.mail_was_read(group), half ^ 1);
      const uint32_t at = shared.mail(group) + thread * 16, to = in_block(at, there);
      const uint32_t bar = in_block(shared.has_mail(group), there);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float* x = s + half * 16 + k * 4;
        send(to + k * 2048, x[0], x[1], x[2], x[3], bar);
      }
      if (thread == 0) bar_expect(shared.has_mail(group), kMailBytes);
      bar_wait(shared.has_mail(group), half);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float4 y = load_shared4(at + k * 2048);
        float* x = s + half * 16 + k * 4;
        x[0] += y.x;
        x[1] += y.y;
        x[2] += y.z;
        x[3] += y.w;
      }
      __syncwarp();
      if (thread % 32 == 0) bar_arrive(in_block(shared.mail_was_read(group), there));
    }
  }
  // A whole number, so that all factors between maxima are powers of two: P is rescaled without an error.
  MMCL_DEVICE float raised(float before, float top) const { return top > before + kSlack ? ceilf(top) : before; }

  // Raises the maxima to these values, and rescales what was made with the earlier ones: O, the sums, and P.
  MMCL_DEVICE void raise(const float (&above)[2], bool has_p) {
    if (!__any_sync(0xffffffffu, above[0] != high[0] || above[1] != high[1])) return;
    if (has_p) wgmma_wait<0>();  // the product that reads P and writes O
    const float fix[2] = {power_of_two(high[0] - above[0]), power_of_two(high[1] - above[1])};
    hold(o);
#pragma unroll
    for (int k = 0; k < NC * 16; ++k) o[k] *= fix[k / 2 % 2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum[h] *= fix[h];
      high[h] = above[h];
    }
    if (!has_p) return;
#pragma unroll
    for (int k = 0; k < 4; ++k) hold(p[k]);
#pragma unroll
    for (int k = 0; k < 16; ++k) p[k / 4][k % 4] = scale_pair<T>(p[k / 4][k % 4], fix[k % 2]);
    store_p();
  }
  // P = exp(S - max) / |t| in the registers of a product's left operand; adds to the sums.
  MMCL_DEVICE void exponentials(const float (&unit)[16]) {
#pragma unroll
    for (int k = 0; k < 32; k += 2) {
      const int h = k / 2 % 2, j = k / 4;
      const float x = power_of_two(s[k] - high[h]), y = power_of_two(s[k + 1] - high[h]);
      sum[h] += x + y;
      p[j / 2][j % 2 * 2 + h] = pack<T>(x * unit[2 * j], y * unit[2 * j + 1]);
    }
  }
  // P to shared memory for the other warpgroup.
  MMCL_DEVICE void store_p() const {
    const int lane = thread % 32, row = thread / 32 * 16 + lane % 16;
#pragma unroll
    for (int k = 0; k < 4; ++k) store_matrices(swizzled(shared.p(group), row, k * 16 + lane / 16 * 8), p[k]);
    publish_shared();
  }
  MMCL_DEVICE void store_max() const {
    if (quad) return;
    store_shared(shared.high(group, r0), high[0]);
    store_shared(shared.high(group, r0 + 8), high[1]);
  }
  MMCL_DEVICE void load_max(float (&other)[2]) const {
    other[0] = load_shared(shared.high(1 - group, r0));
    other[1] = load_shared(shared.high(1 - group, r0 + 8));
  }
  // This warpgroup's columns of the tile, as the right operand of O. 16 classes take 2048 bytes.
  MMCL_DEVICE uint64_t values(int n) const {
    return n_major(shared.stage(n % kStages) + group * Shared<NC, PARTS>::kHalf, kTile);
  }
  MMCL_DEVICE void add_own(int n) {
    const uint64_t t = values(n);
    hold(o);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<T, NC * 32, 1>::run(o, p[k], advance(t, k * 2048), 1);
    wgmma_commit();
  }
  MMCL_DEVICE void add_other(int n) {
    const uint64_t t = values(n), theirs = k_major(shared.p(1 - group));
    bar_wait(shared.full(n % kStages, group), n / kStages & 1);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<T, NC * 32, 1>::run(o, advance(theirs, k * 32), advance(t, k * 2048), 1);
    wgmma_commit();
  }
  // This warp has read its columns of the tile for the last time.
  MMCL_DEVICE void release(int n) const {
    if (thread % 32) return;
    const uint32_t bar = shared.empty(n % kStages, group);
    bar_arrive(a.row_blocks == 2 ? in_block(bar, group * PARTS + part()) : bar);  // to the block that loads this half
  }

  // The tiles n and n + 1 of a pair, for warpgroup 0. There may be no n + 1.
  MMCL_DEVICE void pair_of_a(int n, bool has_b, int tile, int64_t row0) {
    float unit[16], top[2], above[2];
    logits(n, tile, row0, unit, top);
    above[0] = raised(high[0], top[0]);
    above[1] = raised(high[1], top[1]);
    raise(above, false);
    store_max();
    named_arrive(kMaxOfA, kConsumers);
    exponentials(unit);
    store_p();
    add_own(n);
    named_sync(kPOfB, kConsumers);
    load_max(above);
    raise(above, true);
    named_arrive(kPOfA, kConsumers);
    finish_pair(n, n + 1, has_b);
  }
  // The same for warpgroup 1.
  MMCL_DEVICE void pair_of_b(int n, bool has_b, int tile, int64_t row0) {
    float unit[16], top[2], above[2];
    if (has_b) logits(n + 1, tile + 1, row0, unit, top);
    named_sync(kMaxOfA, kConsumers);
    load_max(above);
    if (has_b) {
      above[0] = raised(above[0], top[0]);
      above[1] = raised(above[1], top[1]);
    }
    raise(above, false);
    store_max();
    if (has_b) {
      exponentials(unit);
      store_p();
    }
    named_arrive(kPOfB, kConsumers);
    if (has_b) add_own(n + 1);
    named_sync(kPOfA, kConsumers);
    if (has_b) finish_pair(n + 1, n, true);
    else {
      add_other(n);
      wgmma_wait<0>();
      hold(o);
      release(n);
    }
  }
  // After the product with this warpgroup's own tile: that with the other one's, if there is one.
  MMCL_DEVICE void finish_pair(int own, int other, bool has_other) {
    if (has_other) {
      add_other(other);
      wgmma_wait<1>();
      release(own);
      wgmma_wait<0>();
      hold(o);
      release(other);
    } else {
      wgmma_wait<0>();
      hold(o);
      release(own);
    }
  }

  MMCL_DEVICE void end(int64_t row0, int64_t slot) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
      if (group == 1 && quad == 0) store_shared(shared.high(1, r0 + 8 * h), sum[h]);
    }
    named_sync(kSums, kConsumers);
    const int64_t at = slot * a.rows + row0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = r0 + 8 * h;
      if (row0 + row >= a.rows) continue;
      if (part() == 0 && group == 0 && quad == 0) {
        a.row_sum[at + row] = sum[h] + load_shared(shared.high(1, row));
        a.row_max[at + row] = high[h] * kLn2;
      }
      float* out = a.o + (at + row) * a.width;
#pragma unroll
      for (int k = 0; k < NC * 4; ++k) {
        const int column = (2 * part() + group) * NC * 32 + k * 8 + quad * 2;
        if (column < a.width) *reinterpret_cast<float2*>(out + column) = make_float2(o[4 * k + 2 * h],
                                                                                     o[4 * k + 2 * h + 1]);
      }
    }
  }
};

template <typename T, int NC, int PARTS>
MMCL_DEVICE void consume(const Shared<NC, PARTS>& shared, const OnePass& a, int cluster, int me) {
  Walk walk(a, cluster);
  Consumer<T, NC, PARTS> c(shared, a);
  int n = 0, segments = 0;
  for (Segment segment; walk.next(segment); ++segments) {
    const int64_t row0 = (int64_t(segment.group) * a.row_blocks + me) * kRows;
    c.begin(row0);
    bar_wait(shared.z_full(), segments & 1);
    for (int i = 0; i < segment.count; i += 2) {
      const bool has_b = i + 1 < segment.count;
      if (c.group == 0) c.pair_of_a(n + i, has_b, segment.first + i, row0);
      else c.pair_of_b(n + i, has_b, segment.first + i, row0);
    }
    n += segment.count;
    if (c.thread % 32 == 0) bar_arrive(shared.z_empty());
    const int64_t before = int64_t(segment.group) * walk.tiles / a.tiles_per_cluster;  // the group's first cluster
    c.end(row0, cluster - before);
  }
}

template <typename T, int NC, int PARTS>
__global__ void __launch_bounds__(kThreads, 1)
one_pass_kernel(const __grid_constant__ CUtensorMap map_z, const __grid_constant__ CUtensorMap map_t,
                const __grid_constant__ OnePass a) {
  extern __shared__ unsigned char raw[];
  const Shared<NC, PARTS> shared{(shared_at(raw) + 1023) & ~1023u};
  const int me = int(cluster_rank()) / PARTS, part = int(cluster_rank()) % PARTS;
  if (threadIdx.x == 0) {
    bar_init(shared.z_full(), 1);
    bar_init(shared.z_empty(), kConsumers / 32);
    for (int g = 0; g < 2; ++g) {
      bar_init(shared.has_mail(g), 1);
      bar_init(shared.mail_was_read(g), kConsumers / 2 / 32);
    }
    for (int s = 0; s < Shared<NC, PARTS>::kStages; ++s)
      for (int half = 0; half < 2; ++half) {
        bar_init(shared.full(s, half), 1);
        bar_init(shared.empty(s, half), kConsumers / 2 / 32 * a.row_blocks);
      }
    bars_ready();
  }
  cluster_sync();
  const int cluster = int(blockIdx.x) / (a.row_blocks * PARTS);
  if (uniform(int(threadIdx.x) / 128) < 2) {
    take_registers<232>();
    consume<T, NC, PARTS>(shared, a, cluster, me);
  } else {
    give_registers<40>();
    if (threadIdx.x == kConsumers) produce<NC, PARTS>(shared, &map_z, &map_t, a, cluster, me, part);
    __syncwarp();
  }
  cluster_sync();  // no block leaves while another copies into it or arrives at its barriers
}

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// Asked from the driver at run time: the library is not linked against it, and so loads on a machine without a GPU.
Encode find_encode() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult state;
#if CUDART_VERSION >= 12050
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                       &state)) return nullptr;
#else
  if (cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &state)) return nullptr;
#endif
  return state == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(found) : nullptr;
}

template <typename T> bool make_map(CUtensorMap* map, const void* x, int64_t ld, int64_t rows, int64_t width) {
  static const Encode encode = find_encode();
  if (!encode) return false;
  const cuuint64_t sizes[] = {cuuint64_t(width), cuuint64_t(rows)}, strides[] = {cuuint64_t(ld) * sizeof(T)};
  const cuuint32_t box[] = {64, 64}, steps[] = {1, 1};
  const auto type = std::is_same_v<T, __half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return encode(map, type, 2, const_cast<void*>(x), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename T, int NC, int PARTS = 1> int launch(const OnePass& a, cudaStream_t stream) {
  CUtensorMap map_z, map_t;
  if (!make_map<T>(&map_z, a.z, a.ldz, a.rows, a.width) || !make_map<T>(&map_t, a.text, a.ldt, a.classes, a.width))
    return int(cudaErrorInvalidValue);
  void (*const kernel)(CUtensorMap, CUtensorMap, OnePass) = one_pass_kernel<T, NC, PARTS>;
  const cudaError_t raised = cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, Shared<NC, PARTS>::kAsked);
  if (raised) return int(raised);
  const int64_t tiles = (a.classes + 63) / 64, group = kRows * a.row_blocks, groups = (a.rows + group - 1) / group;
  const int64_t clusters = (groups * tiles + a.tiles_per_cluster - 1) / a.tiles_per_cluster;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = unsigned(a.row_blocks * PARTS);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(clusters * a.row_blocks * PARTS));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = Shared<NC, PARTS>::kAsked;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  const cudaError_t launched = cudaLaunchKernelEx(&config, kernel, map_z, map_t, a);
  return launched ? int(launched) : int(cudaGetLastError());
}

template <typename T> int by_width(const OnePass& a, cudaStream_t stream) {
  if (a.width <= 128) return launch<T, 2>(a, stream);
  if (a.width <= 256) return launch<T, 4>(a, stream);
  if (a.width <= 512) return launch<T, 8>(a, stream);
  return a.width <= 768 ? launch<T, 6, 2>(a, stream) : launch<T, 8, 2>(a, stream);
}

}  // namespace

int one_pass(const OnePass& a, cudaStream_t stream) {
  const bool strided = a.width % 8 || a.ldz % 8 || a.ldt % 8;
  if (a.width > 1024 || strided || a.classes > INT32_MAX || a.rows > INT32_MAX || a.tiles_per_cluster < 1 || a.tiles_per_cluster > INT32_MAX ||
      a.row_blocks < 1 || a.row_blocks > 2)
    return int(cudaErrorInvalidValue);
  if (a.dtype == 1) return by_width<__nv_bfloat16>(a, stream);
  return a.dtype == 2 ? by_width<__half>(a, stream) : int(cudaErrorInvalidValue);
}

} }  // namespace mmcl::cuda
