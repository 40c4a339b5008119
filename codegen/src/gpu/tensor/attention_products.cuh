// Products of attention and of its gradient with `wgmma`: four warps multiply 64 rows with tiles of others, straight from shared memory.

static_assert(DIM % 64 == 0, "rows are blocks of 64 channels");

// A warp's 16 rows in registers, where it holds them: of the two factors shared memory gives the tensor cores one alone then.
struct Held {
  u32 of[HOLDS ? DEPTHS : 1][4];
  // Those from `row` on of a tile of ROWS.
  template <int ROWS>
  __device__ __forceinline__ void take(u32 at, u32 row) {
    if constexpr (HOLDS) {
#pragma unroll
      for (int d = 0; d < DEPTHS; d++) matrices(of[d], at + swizzled_across<CHUNKS, ROWS>(row + threadIdx.x % 16, d * 2 + threadIdx.x % 32 / 16));
    }
  }
};

// Products of 64 rows, which are held or lie at `rows` in a tile of ROWS, with the others at `others`.
template <int ROWS, int MET>
__device__ __forceinline__ void dots(float (&sums)[MET / 8][4], const Held& held, u32 rows, u32 others) {
#pragma unroll
  for (int d = 0; d < DEPTHS; d++) {
    // 16 channels: 32 bytes of each row, in blocks of 64 channels.
    const u64 left = matrix(rows + d / 4 * (ROWS * 128) + d % 4 * 32, 16, 1024), right = matrix(others + d / 4 * (MET * 128) + d % 4 * 32, 16, 1024);
    if (d == 0) {
      DOTS_FIRST
    } else {
      DOTS_MORE
    }
  }
  products_end();
}

// Weights as left factors: those of 16 others each.
template <int N>
__device__ __forceinline__ void factors_of(u32 (&left)[N / 2][4], const float (&weight)[N][4]) {
#pragma unroll
  for (int j = 0; j < N / 2; j++) weights(left[j], weight[2 * j], weight[2 * j + 1]);
}

// Adds the others, weighted.
template <int MET>
__device__ __forceinline__ void spread(float (&sums)[COLUMNS][4], const u32 (&left)[MET / 16][4], u32 others) {
#pragma unroll
  for (int j = 0; j < MET / 16; j++) {
    // 16 of them: two blocks of eight lines.
    const u64 right = matrix(others + j * 2048, MET * 128, 1024);
    SPREAD
  }
  products_end();
}
