// The two warpgroups of the one-pass kernel that multiply: see one_pass_sm90a.cu.
#pragma once
#include "one_pass_layout.cuh"

namespace mmcl { namespace cuda {

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
  // S = z T^T of the tile in a stage, scaled to logits, and each row's maximum. The unit is 1 / |t|.
  // Place: s[4 j + 2 h + b] is of row r0 + 8 h and class 8 j + 2 quad + b.
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

} }  // namespace mmcl::cuda
