// What the kernels of products share: places of the sizes, and products of four warps.

constexpr int BK = 64; // depth of a tile
constexpr int AT_ROWS = 6 + BATCH_RANK, AT_A = AT_ROWS + ROW_RANK, AT_B = AT_A + 2 + BATCH_RANK + ROW_RANK;
constexpr int AT_BIAS = AT_B + 3 + BATCH_RANK, AT_EXTRAS = AT_BIAS + (HAS_BIAS ? 2 : 0), EXTRA_SIZES = 2 + BATCH_RANK + ROW_RANK;
constexpr int AT_OUT = AT_EXTRAS + EXTRAS * EXTRA_SIZES;
constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;
constexpr int MI = WM / 16, NI = WN / 8;
constexpr int A_BYTES = BM * BK * 2, B_BYTES = BN * BK * 2, STAGE_BYTES = A_BYTES + B_BYTES;

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
