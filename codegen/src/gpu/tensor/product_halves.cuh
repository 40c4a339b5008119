// How sums leave where results are of half precision, and so is what the epilogue reads of single rows: the epilogue is computed where the sums are,
// and shared memory turns halves alone, so that what is read and written lies side by side.

constexpr int STRIP_ROUNDS = 4, LINE_CHUNKS = STRIP / 8; // a warp reads or writes four rows of a strip at a time, a lane eight columns
static_assert(STRIP == 64, "a lane has two columns of what all rows share, and a row is a line of 128 bytes");

// Of a strip: what all rows share, this lane's two columns; what rows have each, this lane's eight columns of every fourth row.
struct Fixed {
  // One more than there are, as there may be none.
  float of[FIXED + 1][2];
};
struct Lines {
  uint4 of[STRIP_ROUNDS];
};

template <typename T>
__device__ __forceinline__ void fetch2(const T* at, u32 step, float (&x)[2]) { x[0] = to_float(at[0]), x[1] = to_float(at[step]); }

// Made from the blueprint: reading two columns of what all rows share, where eight columns of a row's line and of its result are, and the epilogue.
__device__ __forceinline__ void fetch_fixed(const Buffers& buffers, const u32* sizes, u32 column, Fixed& fixed);
__device__ __forceinline__ const half_t* line_at(const Buffers& buffers, const u32* sizes, u32 row, u32 column);
__device__ __forceinline__ half_t* result_at(const Buffers& buffers, const u32* sizes, u32 row, u32 column);
__device__ __forceinline__ float ended(float sum, const float (&fixed)[FIXED + 1], float line);

__device__ __forceinline__ void fetch_lines(const Buffers& buffers, const u32* sizes, u32 first_row, u32 first_column, Lines& lines) {
  const u32 lane = threadIdx.x % 32, column = min(first_column + lane % LINE_CHUNKS * 8, sizes[2] - 8);
#pragma unroll
  for (int r = 0; r < STRIP_ROUNDS; r++)
    lines.of[r] = *reinterpret_cast<const uint4*>(line_at(buffers, sizes, min(first_row + r * 4 + lane / LINE_CHUNKS, sizes[1] - 1), column));
}

// Four 8x8 matrices of halves to shared memory; each lane names a row of one.
__device__ __forceinline__ void put_matrices(u32 at, const u32 (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

// Brings 16 rows and STRIP columns of a warp's sums to an end, from the FROM-th eight on, through `strip`, shared memory of the warp's own.
template <int N>
__device__ __forceinline__ void leave(const float (&sums)[N][4], int from, u32 strip, const Fixed& fixed, const Lines& lines, const Buffers& buffers, const u32* sizes, u32 first_row, u32 first_column) {
  const u32 lane = threadIdx.x % 32, line = lane / LINE_CHUNKS, chunk = lane % LINE_CHUNKS, column = first_column + chunk * 8;
  if constexpr (HAS_LINES) {
#pragma unroll
    for (int r = 0; r < STRIP_ROUNDS; r++) put_words(strip + swizzled<LINE_CHUNKS>(r * 4 + line, chunk), lines.of[r]);
    __syncwarp();
  }
  u32 words[STRIP / 16][4] = {};
#pragma unroll
  for (int j = 0; j < STRIP / 16; j++) {
    // Upper and lower rows of eight columns, then of the next eight.
    if constexpr (HAS_LINES) matrices(words[j], strip + swizzled<LINE_CHUNKS>(lane % 16, j * 2 + lane / 16));
#pragma unroll
    for (int next = 0; next < 2; next++) {
      const float (&mine)[4] = sums[from + j * 2 + next];
      float both[2][FIXED + 1];
#pragma unroll
      for (int f = 0; f < FIXED; f++)
#pragma unroll
        for (int c = 0; c < 2; c++) both[c][f] = __shfl_sync(~0u, fixed.of[f][c], (j * 2 + next) * 4 + lane % 4);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        u32& word = words[j][next * 2 + half];
        word = pack(ended(mine[half * 2], both[0], low(word)), ended(mine[half * 2 + 1], both[1], high(word)));
      }
    }
  }
  if constexpr (HAS_LINES) __syncwarp();
#pragma unroll
  for (int j = 0; j < STRIP / 16; j++) put_matrices(strip + swizzled<LINE_CHUNKS>(lane % 16, j * 2 + lane / 16), words[j]);
  __syncwarp();
#pragma unroll
  for (int r = 0; r < STRIP_ROUNDS; r++) {
    const u32 row = first_row + r * 4 + line;
    u32 out[4];
    shared_words(out, strip + swizzled<LINE_CHUNKS>(r * 4 + line, chunk));
    if (row < sizes[1] && column < sizes[2]) *reinterpret_cast<uint4*>(result_at(buffers, sizes, row, column)) = make_uint4(out[0], out[1], out[2], out[3]);
  }
  __syncwarp();
}

// The end of a warp's 16 rows of a tile, strip by strip. What the epilogue reads comes a strip ahead.
template <int STRIPS>
struct Ending {
  u32 first_row, first_column;
  Fixed fixed[2];
  Lines lines[2];
  __device__ __forceinline__ void prepare(const Buffers& buffers, const u32* sizes) { fetch(0, buffers, sizes); }
  __device__ __forceinline__ void strip(const float (&sums)[STRIPS * STRIP / 8][4], int s, float* place, const Buffers& buffers, const u32* sizes) {
    if (s + 1 < STRIPS) fetch(s + 1, buffers, sizes);
    leave(sums, s * STRIP / 8, shared_address(place), fixed[s % 2], lines[s % 2], buffers, sizes, first_row, first_column + s * STRIP);
  }
  __device__ __forceinline__ void fetch(int s, const Buffers& buffers, const u32* sizes) {
    const u32 column = first_column + s * STRIP;
    fetch_fixed(buffers, sizes, min(column + threadIdx.x % 32 * 2, sizes[2] - 2), fixed[s % 2]);
    if constexpr (HAS_LINES) fetch_lines(buffers, sizes, first_row, column, lines[s % 2]);
  }
};
