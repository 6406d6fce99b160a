// The alignment loss in one pass on Hopper: O = sum_c exp(x_c - max) t_c / |t_c| with x = s cos(z, t_c).
//
// A block owns 64 rows of z, or a cluster of two blocks 128. Tiles of 64 class texts (64, D) stream past them. A tile is
// key and value at once. Blocks of a cluster share each tile: each loads one half of its columns for both. Above D = 512
// two blocks (parts) divide the columns of z, T and O, and exchange their shares of S.
//
// One thread of warpgroup 2, the producer, copies tiles, as far ahead as there are stages. Warpgroups 0 and 1 take tiles
// in turn. For a pair of tiles, a and b:

//   warpgroup 0                             warpgroup 1
//   S_a = z T_a^T, max_a   -- max_a -->     S_b = z T_b^T, max_b
//   P_a = exp(S_a - max_a)                  P_b = exp(S_b - max_b)
//   O_left += P_a T_a      <-- P_b, max_b   O_right += P_b T_b
//   O_left += P_b T_b      -- P_a -->       O_right += P_a T_a

// So one warpgroup's exponentials run beside the other's products. A warpgroup's own P stays in registers, and the other
// one reads it from shared memory. Each holds half of O's columns: 128 registers a thread for D = 512.
//
// Clusters divide all tiles of all rows evenly, so a row's sums come in parts (slots), which finish (rows_align.cu) adds.
// Maximum and sums leave the label's class out. D is at most 1024, in chunks of 64 columns.
#include "one_pass_consumer.cuh"

namespace mmcl { namespace cuda {
namespace {

template <int NC, int PARTS>
MMCL_DEVICE void produce(const Shared<NC, PARTS>& shared, const CUtensorMap* map_z, const CUtensorMap* map_t,
                         const OnePass& a, int cluster, int me, int part) {
  const uint16_t everyone = uint16_t((1 << (a.row_blocks - 1) * PARTS | 1) << part);  // with these columns
  using Stages = Shared<NC, PARTS>;
  int n = 0, segments = 0;  // tiles and segments so far
  Walk walk(a, cluster);
  for (Segment segment; walk.next(segment); ++segments) {
    bar_wait(shared.z_empty(), (segments + 1) & 1);
    bar_expect(shared.z_full(), NC * kTile);
#pragma unroll 1
    for (int k = 0; k < NC; ++k)
      copy_box(shared.z() + k * kTile, map_z, (part * NC + k) * 64, (segment.group * a.row_blocks + me) * kRows,
               shared.z_full());
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

template <typename T, int NC, int PARTS> struct Launch {
  void (*const kernel)(CUtensorMap, CUtensorMap, OnePass) = one_pass_kernel<T, NC, PARTS>;
  cudaLaunchAttribute cluster{};
  cudaLaunchConfig_t config{};
  cudaError_t raised;

  Launch(const Launch&) = delete;  // config has the address of cluster
  explicit Launch(int row_blocks) {
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = unsigned(row_blocks * PARTS);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.gridDim = dim3(unsigned(row_blocks * PARTS));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = Shared<NC, PARTS>::kAsked;
    config.attrs = &cluster;
    config.numAttrs = 1;
    raised = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  Shared<NC, PARTS>::kAsked);
  }
  int clusters() {
    int count = 0;
    if (!raised) raised = cudaOccupancyMaxActiveClusters(&count, kernel, &config);
    return raised ? -int(raised) : count;
  }
  int run(const OnePass& a, cudaStream_t stream) {
    CUtensorMap map_z, map_t;
    if (!make_map<T>(&map_z, a.z, a.ldz, a.rows, a.width) || !make_map<T>(&map_t, a.text, a.ldt, a.classes, a.width))
      return int(cudaErrorInvalidValue);
    if (raised) return int(raised);
    const int64_t tiles = (a.classes + 63) / 64, group = kRows * a.row_blocks, groups = (a.rows + group - 1) / group;
    config.gridDim.x *= unsigned((groups * tiles + a.tiles_per_cluster - 1) / a.tiles_per_cluster);
    config.stream = stream;
    raised = cudaLaunchKernelEx(&config, kernel, map_z, map_t, a);
    return raised ? int(raised) : int(cudaGetLastError());
  }
};

// Calls f with the launch of the kernel for this width.
template <typename T, typename F> int by_width(int64_t width, int row_blocks, F f) {
  if (width <= 128) return f(Launch<T, 2, 1>(row_blocks));
  if (width <= 256) return f(Launch<T, 4, 1>(row_blocks));
  if (width <= 512) return f(Launch<T, 8, 1>(row_blocks));
  return width <= 768 ? f(Launch<T, 6, 2>(row_blocks)) : f(Launch<T, 8, 2>(row_blocks));
}
template <typename F> int by_dtype(int dtype, int64_t width, int row_blocks, int refusal, F f) {
  if (width > 1024 || row_blocks < 1 || row_blocks > 2) return refusal;
  if (dtype == 1) return by_width<__nv_bfloat16>(width, row_blocks, f);
  return dtype == 2 ? by_width<__half>(width, row_blocks, f) : refusal;
}

}  // namespace

int one_pass(const OnePass& a, cudaStream_t stream) {
  const int refusal = int(cudaErrorInvalidValue);
  const bool strided = a.width % 8 || a.ldz % 8 || a.ldt % 8;
  if (strided || a.classes > INT32_MAX || a.rows > INT32_MAX || a.tiles_per_cluster < 1 ||
      a.tiles_per_cluster > INT32_MAX)
    return refusal;
  return by_dtype(a.dtype, a.width, a.row_blocks, refusal, [&](auto launch) { return launch.run(a, stream); });
}
int one_pass_clusters(int64_t width, int row_blocks, int dtype) {
  return by_dtype(dtype, width, row_blocks, -int(cudaErrorInvalidValue), [](auto launch) { return launch.clusters(); });
}

} }  // namespace mmcl::cuda
