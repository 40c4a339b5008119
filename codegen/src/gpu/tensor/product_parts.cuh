// What the kernels of products share: places of the sizes, products of four warps, and how sums leave.

constexpr int BK = 64; // depth of a tile
constexpr int AT_ROWS = 6 + BATCH_RANK, AT_A = AT_ROWS + ROW_RANK, AT_B = AT_A + 2 + BATCH_RANK + ROW_RANK;
constexpr int AT_BIAS = AT_B + 3 + BATCH_RANK, AT_EXTRAS = AT_BIAS + (HAS_BIAS ? 2 : 0), EXTRA_SIZES = 2 + BATCH_RANK + ROW_RANK;
constexpr int AT_OUT = AT_EXTRAS + EXTRAS * EXTRA_SIZES;
constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;
constexpr int MI = WM / 16, NI = WN / 8;
constexpr int A_BYTES = BM * BK * 2, B_BYTES = BN * BK * 2, STAGE_BYTES = A_BYTES + B_BYTES;

#ifdef WGMMA
// sums += left right for 64 rows of four warps, BN columns and a depth of 16.
__device__ __forceinline__ void multiply_group(float (&sums)[NI][4], u64 left, u64 right) {
  MULTIPLY_GROUP
}

// The same for a tile in shared memory, of which these four warps have the rows of `group`.
__device__ __forceinline__ void multiply_tile(float (&sums)[NI][4], u32 a_at, u32 b_at, u32 group) {
#pragma unroll
  for (int q = 0; q < BK / 16; q++) {
    // 16 of the depth: 32 bytes of each row, or two blocks of eight lines.
    const u64 left = A_ALONG ? matrix(a_at + group * 64 * 128 + q * 32, 16, 1024) : matrix(a_at + group * BK * 128 + q * 2048, BK * 128, 1024);
    const u64 right = B_ALONG ? matrix(b_at + q * 32, 16, 1024) : matrix(b_at + q * 2048, BK * 128, 1024);
    multiply_group(sums, left, right);
  }
}
#endif

// What brings eight sums of a row to an end is made from the blueprint: reading what the epilogue needs besides; bias, epilogue, store.
__device__ __forceinline__ void fetch8(const Buffers& buffers, const u32* sizes, u32 batch, u32 row, u32 column, int there, Fixed& extras);
__device__ __forceinline__ void fetch8(const Buffers& buffers, const u32* sizes, u32 batch, u32 row, u32 column, int there, Extras& extras);
__device__ __forceinline__ void store8(const Buffers& buffers, const u32* sizes, u32 batch, u32 row, u32 column, int there, const Fixed& fixed, const Extras& extras, float (&sums)[8]);

// Brings 16 rows and COLUMNS columns of a warp's sums to an end, from the FROM-th eight on, through a strip of shared memory of its own, so that
// what is read and written lies side by side. What the epilogue reads comes for TOGETHER rows at once: nothing else hides how long that takes.
template <int COLUMNS, int PITCH, int TOGETHER>
__device__ __forceinline__ void finish(const float (&sums)[NI][4], int from, float* strip, const Buffers& buffers, const u32* sizes, u32 batch, u32 first_row, u32 first_column) {
  const u32 lane = threadIdx.x % 32, m = sizes[1], n = sizes[2];
  // Eight columns a lane.
  constexpr int LANES = COLUMNS / 8, ROWS = 32 / LANES, ROUNDS = 16 / ROWS;
  const u32 column = first_column + lane % LANES * 8, there = column < n ? n - column : 0;
  Fixed fixed;
  fetch8(buffers, sizes, batch, min(first_row, m - 1), there ? column : 0, there ? there : n, fixed);
#pragma unroll
  for (int j = 0; j < COLUMNS / 8; j++) {
    u32 at = lane / 4 * PITCH + j * 8 + lane % 4 * 2;
    *reinterpret_cast<float2*>(strip + at) = make_float2(sums[from + j][0], sums[from + j][1]);
    *reinterpret_cast<float2*>(strip + at + 8 * PITCH) = make_float2(sums[from + j][2], sums[from + j][3]);
  }
  __syncwarp();
#pragma unroll
  for (int r = 0; r < ROUNDS; r += TOGETHER) {
    Extras extras[TOGETHER];
#pragma unroll
    for (int t = 0; t < TOGETHER; t++)
      fetch8(buffers, sizes, batch, min(first_row + (r + t) * ROWS + lane / LANES, m - 1), there ? column : 0, there ? there : n, extras[t]);
#pragma unroll
    for (int t = 0; t < TOGETHER; t++) {
      const u32 line = (r + t) * ROWS + lane / LANES, row = first_row + line;
      // Where a row takes 24 lanes the others have nothing to do.
      if (lane < LANES * ROWS && row < m && there) {
        float x[8];
        take8(strip + line * PITCH + lane % LANES * 8, x);
        store8(buffers, sizes, batch, row, column, there, fixed, extras[t], x);
      }
    }
  }
  __syncwarp();
}
