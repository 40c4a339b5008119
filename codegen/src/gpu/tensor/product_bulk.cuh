// A matrix product with an epilogue on tensor cores whose tiles the copy engine (TMA) brings.
//
// A cube has as many sets of four warps as BM has 64 rows, and four warps more, one thread of which asks for tiles: STAGES of them are in shared
// memory or on their way, each with a barrier that counts its bytes and one that counts the warps that have read it. Cubes stay for all tiles of the
// result that are theirs, so that the next tile comes while this one's sums leave. Sizes are those of `kernels::product`, with one batch.
// Two cubes that share columns and have them sent to both (multicast) were no faster on an H200.

constexpr int SETS = BM / 64, THREADS = 128 * (SETS + 1);
static_assert(MI == 1 && WARPS_N == 1 && SETS == 2, "four warps have 64 whole rows, and registers are dealt out for two sets");
constexpr int STRIPS_AT = STAGES * STAGE_BYTES, BARRIERS_AT = STRIPS_AT + SETS * 4 * 16 * PITCH * 4;

__device__ __forceinline__ void barrier_init(u32 at, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory"); }
__device__ __forceinline__ void barrier_wait(u32 at, u32 parity) {
  asm volatile(
      "{\n.reg .pred there;\n"
      "wait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 there, [%0], %1;\n"
      "@there bra done;\n"
      "bra wait;\n"
      "done:\n}" ::"r"(at), "r"(parity) : "memory");
}
// This phase ends when so many bytes have come.
__device__ __forceinline__ void barrier_expect(u32 at, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_tell(u32 at) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory"); }
// A box of a matrix.
__device__ __forceinline__ void bring(u32 to, const TensorMap& map, u32 inner, u32 outer, u32 barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(&map), "r"(inner), "r"(outer), "r"(barrier) : "memory");
}

// A place in the ring of stages, and how often it was gone round.
struct Ring {
  u32 stage = 0, phase = 0;
  __device__ __forceinline__ void next() {
    stage = stage == STAGES - 1 ? 0 : stage + 1;
    phase ^= stage == 0;
  }
};

// Which part of the result comes at a number: tiles that are computed at the same time share rows and columns, GROUP rows of tiles at a time,
// column by column.
struct Part {
  u32 first_row, first_column;
  __device__ __forceinline__ Part(u32 number, u32 row_tiles, u32 column_tiles) {
    const u32 group = number / (GROUP * column_tiles), in_group = number % (GROUP * column_tiles);
    const u32 height = min(u32(GROUP), row_tiles - group * GROUP);
    first_row = (group * GROUP + in_group % height) * BM;
    first_column = in_group / height * BN;
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  const u32 row_tiles = sizes[4], column_tiles = sizes[5], parts = row_tiles * column_tiles, steps = (sizes[3] + BK - 1) / BK;
  const u32 shared = shared_address(memory), full = shared + BARRIERS_AT, empty = full + STAGES * 8;
  const u32 set = threadIdx.x / 128;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      barrier_init(full + s * 8, 1);
      barrier_init(empty + s * 8, SETS * 4);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  Ring ring;
  if (set == SETS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == SETS * 128) {
      for (u32 number = blockIdx.x; number < parts; number += gridDim.x) {
        const Part part(number, row_tiles, column_tiles);
        for (u32 step = 0; step < steps; step++, ring.next()) {
          const u32 a_at = shared + ring.stage * STAGE_BYTES, b_at = a_at + A_BYTES, there = full + ring.stage * 8;
          barrier_wait(empty + ring.stage * 8, ring.phase ^ 1);
          barrier_expect(there, STAGE_BYTES);
          if constexpr (A_ALONG) {
            bring(a_at, a_map, step * BK, part.first_row, there);
          } else {
#pragma unroll
            for (int i = 0; i < BM / 64; i++) bring(a_at + i * BK * 128, a_map, part.first_row + i * 64, step * BK, there);
          }
          if constexpr (B_ALONG) {
            bring(b_at, b_map, step * BK, part.first_column, there);
          } else {
#pragma unroll
            for (int i = 0; i < BN / 64; i++) bring(b_at + i * BK * 128, b_map, part.first_column + i * 64, step * BK, there);
          }
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const u32 warp = threadIdx.x / 32;
    float* strip = reinterpret_cast<float*>(memory + STRIPS_AT) + warp * (16 * PITCH);
    for (u32 number = blockIdx.x; number < parts; number += gridDim.x) {
      const Part part(number, row_tiles, column_tiles);
      // What it reads is on its way while products are made.
      Ending ending(buffers, sizes, part.first_row + warp * 16, part.first_column);
      float sums[NI][4];
#pragma unroll
      for (int j = 0; j < NI; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) sums[j][e] = 0.0f;
      u32 before = 0;
#pragma unroll 1
      for (u32 step = 0; step < steps; step++, ring.next()) {
        barrier_wait(full + ring.stage * 8, ring.phase);
        const u32 a_at = shared + ring.stage * STAGE_BYTES;
        products_begin();
        multiply_tile(sums, a_at, a_at + A_BYTES, set);
        products_end();
        // The products of the tile before are done: its place is free.
        products_wait<1>();
        if (step > 0 && threadIdx.x % 32 == 0) barrier_tell(empty + before * 8);
        before = ring.stage;
      }
      ending.prepare(buffers, sizes);
      products_wait<0>();
      products_there(sums);
      if (threadIdx.x % 32 == 0) barrier_tell(empty + before * 8);
#pragma unroll
      for (int s = 0; s < BN / STRIP; s++) ending.strip(sums, s, strip, buffers, sizes);
    }
  }
}
