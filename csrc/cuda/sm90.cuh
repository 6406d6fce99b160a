// Hopper's instructions that CUDA C++ has no function for, one function each. The tests replace this file by an emulation
// (tests/ops/emulated/sm90.cuh), so nothing else may hold inline assembly, and nothing here may decide anything.
//
// Addresses of shared memory are 32-bit numbers (shared_at). in_block gives the same place in another block of the
// cluster.
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace mmcl { namespace cuda {

#define MMCL_DEVICE __device__ __forceinline__

// ---- shared memory ---------------------------------------------------------------------------------------------------

MMCL_DEVICE uint32_t shared_at(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
MMCL_DEVICE uint32_t in_block(uint32_t at, uint32_t rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(there) : "r"(at), "r"(rank));
  return there;
}
MMCL_DEVICE void store_shared(uint32_t at, float x) {
  asm volatile("st.shared.f32 [%0], %1;\n" ::"r"(at), "f"(x) : "memory");
}
// Stores four 8 x 8 matrices of 16-bit numbers of the whole warp. A lane holds two neighbours of each, in row lane / 4
// from column lane % 4 * 2 on. Its address belongs to row lane % 8 of matrix lane / 8.
MMCL_DEVICE void store_matrices(uint32_t at, const uint32_t (&x)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n"
               ::"r"(at), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]) : "memory");
}
// 16 bytes to another block of the cluster (in_block), whose barrier `bar` is told as by a copy.
MMCL_DEVICE void send(uint32_t at, float a, float b, float c, float d, uint32_t bar) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];\n"
               ::"r"(at), "f"(a), "f"(b), "f"(c), "f"(d), "r"(bar) : "memory");
}
MMCL_DEVICE float load_shared(uint32_t at) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];\n" : "=f"(x) : "r"(at) : "memory");
  return x;
}
MMCL_DEVICE float4 load_shared4(uint32_t at) {
  float4 x;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];\n"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(at) : "memory");
  return x;
}
// Makes this thread's stores to shared memory visible to wgmma and to the copy engine.
MMCL_DEVICE void publish_shared() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

// ---- barriers --------------------------------------------------------------------------------------------------------

MMCL_DEVICE void bar_init(uint32_t bar, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(bar), "r"(count) : "memory");
}
// Makes initialised barriers visible to the cluster and to the copy engine.
MMCL_DEVICE void bars_ready() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;\n" ::: "memory");
}
MMCL_DEVICE void bar_expect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(bar), "r"(bytes) : "memory");
}
// The barrier may be another block's (in_block). It orders reads of this block's shared memory, and no stores of the
// cluster: that would wait for the whole memory.
MMCL_DEVICE void bar_arrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];\n" ::"r"(bar) : "memory");
}
// Waits until the phase with this parity is over.
MMCL_DEVICE void bar_wait(uint32_t bar, uint32_t parity) {
  asm volatile(
      "{ .reg .pred done;\n"
      "again_%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra out_%=;\n bra again_%=;\n out_%=: }\n" ::"r"(bar), "r"(parity) : "memory");
}
// Named barriers 1 to 15: `threads` threads meet; an arriving one does not wait.
MMCL_DEVICE void named_sync(uint32_t id, uint32_t threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
MMCL_DEVICE void named_arrive(uint32_t id, uint32_t threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
MMCL_DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n" ::: "memory");
}
MMCL_DEVICE uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return rank;
}
// x of the warp's first thread: a value that is the same in the whole warp, and that the compiler knows to be.
MMCL_DEVICE int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }
// The registers of each thread of a warpgroup from here on.
template <int N> MMCL_DEVICE void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(N)); }
template <int N> MMCL_DEVICE void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(N)); }

// 2^x, 0 where that is denormal.
MMCL_DEVICE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// ---- copies ----------------------------------------------------------------------------------------------------------

// Copies the map's box at (column, row) and tells the barrier. Numbers outside the matrix arrive as zeros.
MMCL_DEVICE void copy_box(uint32_t to, const CUtensorMap* map, int column, int row, uint32_t bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];\n"
               ::"r"(to), "l"(map), "r"(bar), "r"(column), "r"(row) : "memory");
}
// The same to the blocks of the cluster whose bits are set in `to_blocks`, at the same place of each. Each one's barrier
// at the same place is told.
MMCL_DEVICE void copy_box(uint32_t to, const CUtensorMap* map, int column, int row, uint32_t bar, uint16_t to_blocks) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
               "[%0], [%1, {%3, %4}], [%2], %5;\n"
               ::"r"(to), "l"(map), "r"(bar), "r"(column), "r"(row), "h"(to_blocks) : "memory");
}

// ---- matrix products -------------------------------------------------------------------------------------------------

// Keeps arithmetic on registers that wgmma reads or writes in place. The compiler could move it over a fence or a wait.
template <int N> MMCL_DEVICE void hold(float (&d)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) asm volatile("" : "+f"(d[k])::"memory");
}
template <int N> MMCL_DEVICE void hold(uint32_t (&a)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) asm volatile("" : "+r"(a[k])::"memory");
}
MMCL_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
MMCL_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
// Waits until at most N of the newest committed groups are under way.
template <int N> MMCL_DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(N) : "memory"); }

// d (64, N) = a (64, 16) b (16, N), or d += a b if keep.
// b comes from shared memory. TransB: its N are contiguous.
// a comes from shared memory (a descriptor), or from registers: {row, row + 8} x {k, k + 8}, two numbers each.
template <typename T, int N, int TransB> struct Wgmma;

#define MMCL_TEN(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define MMCL_LIST_32 MMCL_TEN() MMCL_TEN(1) MMCL_TEN(2) "%30, %31"
#define MMCL_LIST_64 MMCL_TEN() MMCL_TEN(1) MMCL_TEN(2) MMCL_TEN(3) MMCL_TEN(4) MMCL_TEN(5) "%60, %61, %62, %63"
#define MMCL_LIST_96                                                                                     \
  MMCL_TEN() MMCL_TEN(1) MMCL_TEN(2) MMCL_TEN(3) MMCL_TEN(4) MMCL_TEN(5) MMCL_TEN(6) MMCL_TEN(7) MMCL_TEN(8) \
  "%90, %91, %92, %93, %94, %95"
#define MMCL_LIST_128                                                                                    \
  MMCL_TEN() MMCL_TEN(1) MMCL_TEN(2) MMCL_TEN(3) MMCL_TEN(4) MMCL_TEN(5) MMCL_TEN(6) MMCL_TEN(7) MMCL_TEN(8) \
  MMCL_TEN(9) MMCL_TEN(10) MMCL_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define MMCL_D4(k) "+f"(d[k]), "+f"(d[k + 1]), "+f"(d[k + 2]), "+f"(d[k + 3])
#define MMCL_D16(k) MMCL_D4(k), MMCL_D4(k + 4), MMCL_D4(k + 8), MMCL_D4(k + 12)
#define MMCL_D32(k) MMCL_D16(k), MMCL_D16(k + 16)
#define MMCL_D64(k) MMCL_D32(k), MMCL_D32(k + 32)
#define MMCL_D96(k) MMCL_D64(k), MMCL_D32(k + 64)
#define MMCL_D128(k) MMCL_D64(k), MMCL_D64(k + 64)

// R = N / 2 registers of d; then the numbers of the operands behind them.
#define MMCL_WGMMA(N, R, TYPE, A, B, K, T, ...)                                                              \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #K ", 0;\n"                                                \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" MMCL_LIST_##R "}, " A    \
               ", %" #B ", p, 1, 1, " T "; }\n" : MMCL_D##R(0) : __VA_ARGS__)
#define MMCL_WGMMA_STRUCT(N, R, P0, P1, P2, P3, P4, P5, P6, P7)                                              \
  template <typename T, int TransB> struct Wgmma<T, N, TransB> {                                             \
    static MMCL_DEVICE void run(float (&d)[R], uint64_t a, uint64_t b, int keep) {                           \
      if constexpr (std::is_same_v<T, __nv_bfloat16>)                                                        \
        MMCL_WGMMA(N, R, "bf16", "%" #P0, P1, P2, "0, %" #P3, "l"(a), "l"(b), "r"(keep), "n"(TransB));       \
      else MMCL_WGMMA(N, R, "f16", "%" #P0, P1, P2, "0, %" #P3, "l"(a), "l"(b), "r"(keep), "n"(TransB));     \
    }                                                                                                        \
    static MMCL_DEVICE void run(float (&d)[R], const uint32_t (&a)[4], uint64_t b, int keep) {               \
      if constexpr (std::is_same_v<T, __nv_bfloat16>)                                                        \
        MMCL_WGMMA(N, R, "bf16", "{%" #P0 ", %" #P1 ", %" #P2 ", %" #P3 "}", P4, P5, "%" #P6, "r"(a[0]),     \
                   "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(TransB));                         \
      else MMCL_WGMMA(N, R, "f16", "{%" #P0 ", %" #P1 ", %" #P2 ", %" #P3 "}", P4, P5, "%" #P6, "r"(a[0]),   \
                      "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(TransB));                      \
    }                                                                                                        \
  }
MMCL_WGMMA_STRUCT(64, 32, 32, 33, 34, 35, 36, 37, 38, 39);
MMCL_WGMMA_STRUCT(128, 64, 64, 65, 66, 67, 68, 69, 70, 71);
MMCL_WGMMA_STRUCT(192, 96, 96, 97, 98, 99, 100, 101, 102, 103);
MMCL_WGMMA_STRUCT(256, 128, 128, 129, 130, 131, 132, 133, 134, 135);

} }  // namespace mmcl::cuda
