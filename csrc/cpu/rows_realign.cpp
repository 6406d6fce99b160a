// What stands between the matrix products of realign, forward and backward, one row at a time.
#include "math.h"

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
  float along = 0.0f;
#pragma omp simd reduction(+ : along)
  for (int64_t j = 0; j < a.width; ++j) along += load(de, j) * load(e, j);
  const float inv = a.inv[i];
#pragma omp simd
  for (int64_t j = 0; j < a.width; ++j) store(dv, j, inv * (load(de, j) - along * load(e, j)));
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

} }  // namespace mmcl::MMCL_ISA
