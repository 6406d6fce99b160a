// realign: e = normalize(v), v = z + (h gate) up with h = u down. Its gradients:
//
//     dv = (de - (de . e) e) / |v|,   dh = (dv up') gate,   dup = (h gate)' dv,   ddown = u' dh,   du = dh down'

// The row kernels work between library matrix products. In float32 the whole forward and backward take a block of rows
// at a time: then everything between two products stays in the second-level cache.
#include "math.h"
#include "products.h"

namespace mmcl { namespace MMCL_ISA {

template <typename T>
static void gate_row(const GateRows& a, int64_t i) {
  const T* h = static_cast<const T*>(a.h) + i * a.ldh;
  const T* gate = static_cast<const T*>(a.gate) + i * a.ldg;
  T* out = static_cast<T*>(a.out) + i * a.ldo;
  for (int64_t m = 0; m < a.groups; ++m, h += a.rank, out += a.rank) {
    const float g = load(gate, m);
#pragma omp simd
    for (int64_t k = 0; k < a.rank; ++k) store(out, k, load(h, k) * g);
  }
}

template <typename T>
static void add_row(const AddNorm& a, int64_t i) {
  const T* z = static_cast<const T*>(a.z) + i * a.ldz;
  const T* s = static_cast<const T*>(a.s) + i * a.lds;
  T* e = static_cast<T*>(a.e) + i * a.lde;
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < a.width; ++j) {
    const float v = load(z, j) + load(s, j);
    sum += v * v;
  }
  const float length = std::sqrt(sum), inv = 1.0f / (length < kEps ? kEps : length);
  a.inv[i] = inv;
#pragma omp simd
  for (int64_t j = 0; j < a.width; ++j) store(e, j, (load(z, j) + load(s, j)) * inv);
}

template <typename T>
static void project_row(const Project& a, int64_t i) {
  const T* de = static_cast<const T*>(a.de) + i * a.ldde;
  const T* e = static_cast<const T*>(a.e) + i * a.lde;
  T* dv = static_cast<T*>(a.dv) + i * a.lddv;
  float radial = 0.0f;
#pragma omp simd reduction(+ : radial)
  for (int64_t j = 0; j < a.width; ++j) radial += load(de, j) * load(e, j);
  const float inv = a.inv[i];
#pragma omp simd
  for (int64_t j = 0; j < a.width; ++j) store(dv, j, inv * (load(de, j) - radial * load(e, j)));
}

template <typename T>
static void gate_back_row(const GateBack& a, int64_t i) {
  T* d = static_cast<T*>(a.d) + i * a.ldd;
  const T* h = static_cast<const T*>(a.h) + i * a.ldh;
  const T* gate = static_cast<const T*>(a.gate) + i * a.ldg;
  T* scaled = a.scaled ? static_cast<T*>(a.scaled) + i * a.lds : nullptr;
  T* dgate = static_cast<T*>(a.dgate) + i * a.lddg;
  for (int64_t m = 0; m < a.groups; ++m, d += a.rank, h += a.rank) {
    const float g = load(gate, m);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < a.rank; ++k) {
      const float dk = load(d, k);
      sum += dk * load(h, k);
      store(d, k, dk * g);
    }
    store(dgate, m, sum);
    if (!scaled) continue;
#pragma omp simd
    for (int64_t k = 0; k < a.rank; ++k) store(scaled, k, load(h, k) * g);
    scaled += a.rank;
  }
}

#define MMCL_ROWS(NAME, ARGS, ROW)                                                              \
  int NAME(const ARGS& a) {                                                                      \
    if (a.dtype != kFloat32 && a.dtype != kBFloat16) return kBadDtype;                           \
    _Pragma("omp parallel for schedule(static) num_threads(a.threads) if (a.threads > 1)")       \
    for (int64_t i = 0; i < a.rows; ++i) a.dtype == kFloat32 ? ROW<float>(a, i) : ROW<bf16>(a, i); \
    return 0;                                                                                    \
  }

MMCL_ROWS(gate_rows, GateRows, gate_row)
MMCL_ROWS(add_norm, AddNorm, add_row)
MMCL_ROWS(project, Project, project_row)
MMCL_ROWS(gate_back, GateBack, gate_back_row)

constexpr int64_t kBlock = 128;  // rows between two products

int realign_forward(const RealignForward& a) {
  const int64_t n = a.groups * a.rank;
  Buffer down(packed_size(a.from, n)), up(packed_size(n, a.width)), work(a.threads * kBlock * (n + a.width));
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const int worker = thread(), workers = threads();
    pack(a.down, n, 1, a.from, n, down.at, worker, workers);
    pack(a.up, a.width, 1, n, a.width, up.at, worker, workers);
    float *scaled = work.at + worker * kBlock * (n + a.width), *shift = scaled + kBlock * n;
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a.rows; i += kBlock) {
      const int64_t m = std::min(kBlock, a.rows - i);
      float* h = a.h + i * n;
      multiply(m, n, a.from, a.u + i * a.ldu, a.ldu, down.at, h, n);
      const GateRows gates{h, a.gate + i * a.ldg, scaled, n, a.ldg, n, m, a.groups, a.rank, kFloat32, 1};
      for (int64_t r = 0; r < m; ++r) gate_row<float>(gates, r);
      multiply(m, a.width, n, scaled, n, up.at, shift, a.width);
      const AddNorm add{a.z + i * a.ldz, shift, a.e + i * a.width, a.inv + i, a.ldz, a.width, a.width, m, a.width,
                         kFloat32, 1};
      for (int64_t r = 0; r < m; ++r) add_row<float>(add, r);
    }
  }
  return 0;
}

// For each chunk of rows: first dv, dgate, dh and du, with the rows split over the workers. Then the chunk's share of
// ddown and dup, with their rows or columns split, so that no two workers add to one number.
int realign_back(const RealignBack& a) {
  const int64_t n = a.groups * a.rank, chunk = std::min(a.rows, kDeep * a.threads);
  const bool needs_dh = a.du || a.ddown || a.dup || a.dgate;  // without these dz = dv, and no product is needed
  Buffer up(needs_dh ? packed_size(a.width, n) : 0), down(a.du ? packed_size(n, a.from) : 0);
  Buffer rows(chunk * (a.width + 2 * n)), gates(chunk * a.groups);
  const int64_t dup_columns = round_up((a.width + a.threads - 1) / a.threads, kWide);
  Buffer work(a.threads * std::max(work_size(n), work_size(dup_columns)));
  float *const dv_rows = rows.at, *const dh_rows = dv_rows + chunk * a.width, *const scaled_rows = dh_rows + chunk * n;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const int worker = thread(), workers = threads();
    if (needs_dh) pack(a.up, 1, a.width, a.width, n, up.at, worker, workers);
    if (a.du) pack(a.down, 1, n, n, a.from, down.at, worker, workers);
#pragma omp barrier
    for (int64_t first = 0; first < a.rows; first += chunk) {
      const int64_t count = std::min(chunk, a.rows - first);
      float* const dvs = a.dz && !a.adds ? a.dz + first * a.width : dv_rows;
#pragma omp for schedule(static)
      for (int64_t i = 0; i < count; i += kBlock) {
        const int64_t m = std::min(kBlock, count - i), row = first + i;
        float *dv = dvs + i * a.width, *dh = dh_rows + i * n;
        const Project projection{a.de + row * a.ldde, a.e + row * a.width, a.inv + row, dv, a.ldde, a.width, a.width, m,
                           a.width, kFloat32, 1};
        for (int64_t r = 0; r < m; ++r) project_row<float>(projection, r);
        if (!needs_dh) continue;
        multiply(m, n, a.width, dv, a.width, up.at, dh, n);
        float* dgate = a.dgate ? a.dgate + row * a.groups : gates.at + i * a.groups;
        const GateBack back{dh, a.h + row * n, a.gate + row * a.ldg, a.dup ? scaled_rows + i * n : nullptr, dgate, n, n,
                            a.ldg, n, a.groups, m, a.groups, a.rank, kFloat32, 1};
        for (int64_t r = 0; r < m; ++r) gate_back_row<float>(back, r);
        if (!a.du) continue;
        float* du = a.du + row * a.from;
        if (a.adds) std::copy_n(dv, m * a.width, du);
        multiply(m, a.from, n, dh, n, down.at, du, a.from, a.adds);
      }
      float* const scratch = work.at + worker * (work.numbers / a.threads);
      if (a.ddown) {
        const int64_t share = round_up((a.from + workers - 1) / workers, kStrip);
        const int64_t low = std::min(a.from, worker * share);
        multiply_rows(std::min(share, a.from - low), n, count, a.u + first * a.ldu + low, a.ldu, dh_rows, n,
                      a.ddown + low * n, n, scratch, first);
      }
      if (a.dup) {
        const int64_t share = round_up((a.width + workers - 1) / workers, kWide);
        const int64_t low = std::min(a.width, worker * share);
        multiply_rows(n, std::min(share, a.width - low), count, scaled_rows, n, dvs + low, a.width, a.dup + low,
                      a.width, scratch, first);
      }
#pragma omp barrier
    }
  }
  return 0;
}

} }  // namespace mmcl::MMCL_ISA
