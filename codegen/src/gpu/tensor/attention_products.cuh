// Products of attention with `wgmma`: four warps multiply 64 queries with tiles of keys and values straight from shared memory.

static_assert(ROW_TILES == 1 && WARPS_K == 1 && WARPS_Q % 4 == 0 && DIM % 64 == 0, "four warps have 64 queries");

// A warp's 16 queries in registers, where it holds them: shared memory gives the tensor cores keys and values alone then.
struct Held {
  u32 of[HOLDS ? DEPTHS : 1][4];
  __device__ __forceinline__ void take(u32 q_at, u32 row) {
    if constexpr (HOLDS) {
#pragma unroll
      for (int d = 0; d < DEPTHS; d++) matrices(of[d], q_at + swizzled_across<CHUNKS, BQ>(row + threadIdx.x % 16, d * 2 + threadIdx.x % 32 / 16));
    }
  }
};

// The scores of queries that are held, or lie at `q_at`.
__device__ __forceinline__ void scores_of(float (&score)[KEYS][4], const Held& held, u32 q_at, u32 k_at) {
#pragma unroll
  for (int d = 0; d < DEPTHS; d++) {
    // 16 channels: 32 bytes of each row, in blocks of 64 channels.
    const u64 left = matrix(q_at + d / 4 * (BQ * 128) + d % 4 * 32, 16, 1024), right = matrix(k_at + d / 4 * (BK * 128) + d % 4 * 32, 16, 1024);
    if (d == 0) {
      SCORES_FIRST
    } else {
      SCORES_MORE
    }
  }
  products_end();
}

__device__ __forceinline__ void values_of(float (&result)[COLUMNS][4], const u32 (&left)[KEYS / 2][4], u32 v_at) {
#pragma unroll
  for (int j = 0; j < KEYS / 2; j++) {
    // 16 values: two blocks of eight lines.
    const u64 right = matrix(v_at + j * 2048, BK * 128, 1024);
    VALUES_MORE
  }
  products_end();
}
