// How sums leave whatever results and the epilogue's operands are: eight of a row at a time.

// What brings eight sums of a row to an end is made from the blueprint: reading what the epilogue needs besides; bias, epilogue, store.
__device__ __forceinline__ void fetch8(const Buffers& buffers, const u32* sizes, u32 batch, u32 row, u32 column, int there, Fixed& extras);
__device__ __forceinline__ void fetch8(const Buffers& buffers, const u32* sizes, u32 batch, u32 row, u32 column, int there, Extras& extras);
__device__ __forceinline__ void store8(const Buffers& buffers, const u32* sizes, u32 batch, u32 row, u32 column, int there, const Fixed& fixed, const Extras& extras, float (&sums)[8]);

// Brings 16 rows and COLUMNS columns of a warp's sums to an end, from the FROM-th eight on, through a strip of shared memory of its own, so that
// what is read and written lies side by side. What the epilogue reads comes for TOGETHER rows at once: nothing else hides how long that takes.
template <int COLUMNS, int PITCH, int TOGETHER, int N>
__device__ __forceinline__ void finish(const float (&sums)[N][4], int from, float* strip, const Buffers& buffers, const u32* sizes, u32 batch, u32 first_row, u32 first_column) {
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

// The end of a warp's 16 rows of a tile, strip by strip.
template <int STRIPS>
struct Ending {
  u32 first_row, first_column;
  __device__ __forceinline__ void prepare(const Buffers& buffers, const u32* sizes) {}
  __device__ __forceinline__ void strip(const float (&sums)[STRIPS * STRIP / 8][4], int s, float* place, const Buffers& buffers, const u32* sizes) {
    finish<STRIP, PITCH, 4>(sums, s * STRIP / 8, place, buffers, sizes, 0, first_row, first_column + s * STRIP);
  }
};
