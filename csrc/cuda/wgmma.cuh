// Hopper's matrix instruction and its memory: descriptors, wgmma, mbarriers and the bulk tensor copy.
// Tiles have rows of 64 numbers (128 bytes) with the 128-byte swizzle, and begin at multiples of 1024 bytes.
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace mmcl { namespace cuda {

__device__ __forceinline__ uint32_t shared_at(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// The descriptor of an operand whose reduction dimension is contiguous: groups of 8 rows lie 1024 bytes apart.
__device__ __forceinline__ uint64_t k_major(uint32_t at) {
  return uint64_t((at & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
// The descriptor of an operand whose other dimension is contiguous: blocks of 64 numbers lie `leap` bytes apart, groups
// of 8 rows 1024 bytes apart.
__device__ __forceinline__ uint64_t n_major(uint32_t at, uint32_t leap) {
  return uint64_t((at & 0x3ffff) >> 4) | uint64_t(leap >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

// Keeps arithmetic on the accumulators in place. wgmma writes them after its own line. Without hold the compiler could
// move that arithmetic over the fence or the wait.
template <int N> __device__ __forceinline__ void hold(float (&d)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) asm volatile("" : "+f"(d[k])::"memory");
}
__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_end(float (&d)[N]) {
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n" ::: "memory");
  hold(d);
}
// Makes ordinary stores to shared memory visible to wgmma.
__device__ __forceinline__ void publish() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

__device__ __forceinline__ void bar_init(uint32_t bar) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n" ::"r"(bar));
}
// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void bars_ready() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;\n" ::: "memory");
}
__device__ __forceinline__ void bar_expect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void bar_wait(uint32_t bar, uint32_t parity) {
  asm volatile(
      "{ .reg .pred done;\n"
      "again_%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra out_%=;\n bra again_%=;\n out_%=: }\n" ::"r"(bar), "r"(parity) : "memory");
}
// Copies the 64 x 64 numbers at (column, row) of the map's matrix; numbers outside the matrix arrive as zeros.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap* map, int column, int row, uint32_t bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];\n"
               ::"r"(to), "l"(map), "r"(bar), "r"(column), "r"(row) : "memory");
}

// d (64, N) = a (64, 16) b (16, N) from shared memory, or d += a b if keep. The lists are d's registers, in order.
template <typename T, int N, int TransB> struct Wgmma;

#define MMCL_WGMMA_32(TYPE)                                                                                 \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %18, 0;\n"                                                   \
    "wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE "." TYPE " {"                                        \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"                                  \
    "}, %16, %17, p, 1, 1, 0, %19; }\n"                                                                     \
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),       \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])  \
    : "l"(a), "l"(b), "r"(keep), "n"(TransB))

#define MMCL_WGMMA_64(TYPE)                                                                                 \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"                                                   \
    "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " {"                                        \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"                        \
    "}, %32, %33, p, 1, 1, 0, %35; }\n"                                                                     \
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),       \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
      "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),\
      "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])\
    : "l"(a), "l"(b), "r"(keep), "n"(TransB))

#define MMCL_WGMMA_128(TYPE)                                                                                \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"                                                   \
    "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {"                                       \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                      \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                      \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                        \
    "}, %64, %65, p, 1, 1, 0, %67; }\n"                                                                     \
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),       \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
      "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),\
      "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),\
      "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),\
      "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),\
      "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),\
      "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])\
    : "l"(a), "l"(b), "r"(keep), "n"(TransB))

#define MMCL_WGMMA_256(TYPE)                                                                                \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %130, 0;\n"                                                  \
    "wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPE "." TYPE " {"                                       \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                      \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                      \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                      \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                      \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                      \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "          \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"        \
    "}, %128, %129, p, 1, 1, 0, %131; }\n"                                                                  \
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),       \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
      "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),\
      "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),\
      "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),\
      "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),\
      "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),\
      "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),\
      "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),\
      "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),\
      "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),\
      "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),\
      "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),\
      "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),\
      "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),\
      "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])\
    : "l"(a), "l"(b), "r"(keep), "n"(TransB))

template <typename T, int TransB> struct Wgmma<T, 32, TransB> {
  static __device__ __forceinline__ void run(float (&d)[16], uint64_t a, uint64_t b, int keep) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>) { MMCL_WGMMA_32("bf16"); }
    else { MMCL_WGMMA_32("f16"); }
  }
};
template <typename T, int TransB> struct Wgmma<T, 64, TransB> {
  static __device__ __forceinline__ void run(float (&d)[32], uint64_t a, uint64_t b, int keep) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>) { MMCL_WGMMA_64("bf16"); }
    else { MMCL_WGMMA_64("f16"); }
  }
};
template <typename T, int TransB> struct Wgmma<T, 128, TransB> {
  static __device__ __forceinline__ void run(float (&d)[64], uint64_t a, uint64_t b, int keep) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>) { MMCL_WGMMA_128("bf16"); }
    else { MMCL_WGMMA_128("f16"); }
  }
};
template <typename T, int TransB> struct Wgmma<T, 256, TransB> {
  static __device__ __forceinline__ void run(float (&d)[128], uint64_t a, uint64_t b, int keep) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>) { MMCL_WGMMA_256("bf16"); }
    else { MMCL_WGMMA_256("f16"); }
  }
};

} }  // namespace mmcl::cuda
