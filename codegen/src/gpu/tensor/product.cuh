// A matrix product with an epilogue on tensor cores.
//
// A cube computes BM x BN of the result; its warps, WARPS_M x WARPS_N of them, a part each. STAGES tiles of depth 64 are in shared memory or on
// their way. A factor whose depth is contiguous lies there by rows of 64, another by its columns: what is read transposed is turned by
// `ldmatrix`. Rows, columns and depths beyond the sizes are zeros and are not stored. The sizes are those of `kernels::product`.
//
// SLICES sets of these warps share the depth, tile by tile in turn, each with stages and a barrier of its own: where there are few rows and columns
// nothing but more of the depth at a time keeps a multiprocessor busy. At the end the first set adds the sums of the others to its own, in order.
//
// With WGMMA four warps together multiply 64 rows by BN columns straight from shared memory; their sums lie in registers as those of
// `mma` do, 16 rows a warp. The tensor cores work on while the next tile is waited for, so that a place is free one step later.

#ifdef WGMMA
static_assert(MI == 1 && WARPS_N == 1 && BM % 64 == 0 && STAGES > 2 && SLICES == 1, "four warps have 64 whole rows");
constexpr int AHEAD = STAGES - 2; // tiles on their way
#else
constexpr int AHEAD = STAGES - 1;
#endif
constexpr int THREADS = 32 * WARPS_M * WARPS_N; // of a slice

// Brings one tile of a factor to shared memory. OUTER: rows (or columns) of the tile; ALONG: its depth is contiguous. `first` and
// `count` are the tile's first row and the number of all; `lines` says where this thread's rows begin.
template <int OUTER, bool ALONG, int ALIGN>
struct Loader {
  static constexpr int CHUNKS = ALONG ? BK / 8 : OUTER / 8;          // of a line in shared memory
  static constexpr int LINES = ALONG ? OUTER : BK;                   // lines
  static constexpr int STEP = THREADS / CHUNKS > 0 ? THREADS / CHUNKS : 1;
  static constexpr int COUNT = (LINES + STEP - 1) / STEP;
  const half_t* base;
  u32 lines[ALONG ? COUNT : 1]; // ALONG: first elements of this thread's rows
  u32 stride;                   // distance along the depth, where that is not 1
  u32 first, count, chunk, line;

  __device__ __forceinline__ void tile(u32 to, u32 depth, u32 k) const {
    // Lines of 24 chunks leave some threads over.
    if (THREADS % CHUNKS != 0 && line >= STEP) return;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      u32 at = line + i * STEP;
      if (LINES % STEP != 0 && at >= LINES) break;
      u32 place = to + (ALONG ? swizzled<CHUNKS>(at, chunk) : swizzled_across<CHUNKS, BK>(at, chunk));
      if constexpr (ALONG) {
        u32 z = depth + chunk * 8;
        bool there = first + at < count && z < k;
        if constexpr (ALIGN == 0)
          copy8_apart(place, base + (there ? lines[i] + z * stride : 0), stride, there ? int(k - z) : 0);
        else
          copy8<ALIGN>(place, base + (there ? lines[i] + z : 0), there ? int(k - z) : 0, base);
      } else {
        u32 z = depth + at, x = first + chunk * 8;
        bool there = z < k && x < count;
        copy8<ALIGN>(place, base + (there ? lines[0] + z * stride + x : 0), there ? int(count - x) : 0, base);
      }
    }
  }
};

// Waits for the warps of a slice.
__device__ __forceinline__ void meet(u32 slice) {
  if constexpr (SLICES == 1)
    __syncthreads();
  else
    asm volatile("bar.sync %0, %1;" ::"r"(slice + 1), "n"(THREADS) : "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS* SLICES, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  const u32 m = sizes[1], n = sizes[2], k = sizes[3], row_tiles = sizes[4], column_tiles = sizes[5];
  const u32 slice = SLICES == 1 ? 0 : threadIdx.x / THREADS, unit = threadIdx.x - slice * THREADS, warp = unit / 32, warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;

  const u32 tiles = row_tiles * column_tiles, batch = cube_number() / tiles;
  if (batch >= sizes[0]) return;
  const Part part(cube_number() % tiles, row_tiles, column_tiles);
  const u32 first_row = part.first_row, first_column = part.first_column;

  Loader<BM, A_ALONG, A_ALIGN> a;
  Loader<BN, B_ALONG, B_ALIGN> b;
  {
    a.base = A_BUFFER + sizes[AT_A] + distance<BATCH_RANK>(sizes, batch, 6, AT_A + 1);
    a.stride = sizes[AT_B - 1], b.stride = sizes[AT_B + 2 + BATCH_RANK];
    a.first = first_row, a.count = m, a.chunk = unit % a.CHUNKS, a.line = unit / a.CHUNKS;
    b.base = B_BUFFER + sizes[AT_B] + distance<BATCH_RANK>(sizes, batch, 6, AT_B + 1);
    b.first = first_column, b.count = n, b.chunk = unit % b.CHUNKS, b.line = unit / b.CHUNKS;
    if constexpr (A_ALONG) {
#pragma unroll
      for (int i = 0; i < a.COUNT; i++)
        a.lines[i] = distance<ROW_RANK>(sizes, min(first_row + a.line + i * a.STEP, m - 1), AT_ROWS, AT_A + 1 + BATCH_RANK);
    } else {
      a.lines[0] = 0;
    }
    if constexpr (B_ALONG) {
#pragma unroll
      for (int i = 0; i < b.COUNT; i++) b.lines[i] = (first_column + b.line + i * b.STEP) * sizes[AT_B + 1 + BATCH_RANK];
    } else {
      b.lines[0] = 0;
    }
  }

  float sums[MI][NI][4];
#pragma unroll
  for (int i = 0; i < MI; i++)
#pragma unroll
    for (int j = 0; j < NI; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;

  const u32 shared = shared_address(memory) + slice * (STAGES * STAGE_BYTES);
  // This slice's tiles are every SLICES-th from its own number on.
  const u32 tiles_deep = (k + BK - 1) / BK, steps = (tiles_deep + SLICES - 1 - slice) / SLICES;
  const auto depth = [=](u32 step) { return (step * SLICES + slice) * BK; };
#pragma unroll
  for (int s = 0; s < AHEAD; s++) {
    if (s < steps) a.tile(shared + s * STAGE_BYTES, depth(s), k), b.tile(shared + s * STAGE_BYTES + A_BYTES, depth(s), k);
    copies_end();
  }
  u32 stage = 0;
#pragma unroll 1
  for (u32 step = 0; step < steps; step++) {
    copies_wait<AHEAD - 1>();
#ifdef WGMMA
    copies_shown();
#endif
    // The tile is there for all, and the one whose place is taken next was read by all.
    meet(slice);
    const u32 next = step + AHEAD, free = (stage + AHEAD) % STAGES;
    if (next < steps) {
      a.tile(shared + free * STAGE_BYTES, depth(next), k);
      b.tile(shared + free * STAGE_BYTES + A_BYTES, depth(next), k);
    }
    copies_end();
    const u32 a_at = shared + stage * STAGE_BYTES, b_at = a_at + A_BYTES;
#ifdef WGMMA
    products_begin();
    multiply_tile(sums[0], a_at, b_at, warp / 4);
    products_end();
    products_wait<1>();
#else
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int q = 0; q < BK / 16; q++) {
      u32 left[MI][4], right[(NI + 1) / 2][4];
#pragma unroll
      for (int i = 0; i < MI; i++) {
        if constexpr (A_ALONG)
          matrices(left[i], a_at + swizzled<BK / 8>(warp_m * WM + i * 16 + lane % 16, q * 2 + lane / 16));
        else
          matrices_transposed(left[i], a_at + swizzled_across<BM / 8, BK>(q * 16 + lane % 8 + lane / 16 * 8, (warp_m * WM + i * 16) / 8 + lane / 8 % 2));
      }
#pragma unroll
      for (int j = 0; j < NI / 2; j++) {
        if constexpr (B_ALONG)
          matrices(right[j], b_at + swizzled<BK / 8>(warp_n * WN + j * 16 + lane % 8 + lane / 16 * 8, q * 2 + lane / 8 % 2));
        else
          matrices_transposed(right[j], b_at + swizzled_across<BN / 8, BK>(q * 16 + lane % 16, (warp_n * WN + j * 16) / 8 + lane / 16));
      }
#pragma unroll
      for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++) multiply(sums[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
    }
#endif
    stage = stage == STAGES - 1 ? 0 : stage + 1;
  }
  copies_wait<0>();
#ifdef WGMMA
  products_wait<0>();
  products_there(sums[0]);
#endif
  // Everything in shared memory was read: sums take its place, 16 rows of each warp at a time.
  __syncthreads();
  constexpr int PITCH = WN + 8, ROUNDS = 16 / (256 / WN), TOGETHER = MI > 1 ? 1 : ROUNDS < 4 ? ROUNDS : 4;
  float* strip = reinterpret_cast<float*>(memory) + warp * (16 * PITCH);
  if constexpr (SLICES > 1) {
    constexpr int COUNT = MI * NI * 4;
    // Behind the strips: a number of each unit side by side.
    float* partial = reinterpret_cast<float*>(memory) + WARPS_M * WARPS_N * 16 * PITCH + unit;
    float* mine = &sums[0][0][0];
    if (slice > 0) {
#pragma unroll
      for (int i = 0; i < COUNT; i++) partial[((slice - 1) * COUNT + i) * THREADS] = mine[i];
    }
    __syncthreads();
    if (slice > 0) return;
#pragma unroll
    for (int s = 0; s < SLICES - 1; s++)
#pragma unroll
      for (int i = 0; i < COUNT; i++) mine[i] += partial[(s * COUNT + i) * THREADS];
  }
#pragma unroll
  for (int i = 0; i < MI; i++)
    finish<WN, PITCH, TOGETHER>(sums[i], 0, strip, buffers, sizes, batch, first_row + warp_m * WM + i * 16, first_column + warp_n * WN);
}
