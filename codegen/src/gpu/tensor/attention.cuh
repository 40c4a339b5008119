// Attention with `mma`: one pass over tiles of keys. While a tile is worked on, the next one is on its way.

extern "C" __global__ void __launch_bounds__(THREADS, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_q = warp % WARPS_Q, warp_k = warp / WARPS_Q;
  Work w;
  if (!work_of(w, buffers, sizes)) return;
  const u32 q_at = shared_address(memory), k_at = q_at + Q_BYTES, v_at = k_at + 2 * TILE_BYTES;
  Source keys, values;
  sources(keys, values, buffers, sizes, w);
  const u32 steps = (w.to - w.from + BK - 1) / BK;
  queries_tile<THREADS>(q_at, buffers, sizes, w);
  if (steps > 0) keys.tile<THREADS, BK>(k_at, w.from, w.to);
  copies_end();
  if (steps > 0) values.tile<THREADS, BK>(v_at, w.from, w.to);
  copies_end();

  float result[ROW_TILES][COLUMNS][4] = {}, top[ROW_TILES][2], sum[ROW_TILES][2] = {};
#pragma unroll
  for (int r = 0; r < ROW_TILES; r++) top[r][0] = top[r][1] = FLOOR;

#pragma unroll 1
  for (u32 step = 0; step < steps; step++) {
    const u32 first = w.from + step * BK, stage = step % 2 * TILE_BYTES;
    // The keys of this tile are there, and all warps have done with the tile before it.
    copies_wait<1>();
    __syncthreads();
    if (step + 1 < steps) keys.tile<THREADS, BK>(k_at + (TILE_BYTES - stage), first + BK, w.to);
    copies_end();
    float score[ROW_TILES][KEYS][4] = {};
#pragma unroll
    for (int d = 0; d < DEPTHS; d++) {
      u32 left[ROW_TILES][4];
#pragma unroll
      for (int r = 0; r < ROW_TILES; r++)
        matrices(left[r], q_at + swizzled_across<CHUNKS, BQ>((warp_q * ROW_TILES + r) * 16 + lane % 16, d * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < KEYS; j += 2) {
        u32 right[4];
        matrices(right, k_at + stage + swizzled_across<CHUNKS, BK>(warp_k * KEY_TILE + j * 8 + lane % 8 + lane / 16 * 8, d * 2 + lane / 8 % 2));
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
          multiply(score[r][j], left[r], right[0], right[1]);
          multiply(score[r][j + 1], left[r], right[2], right[3]);
        }
      }
    }
    if (HAS_TERMS || first + BK > w.to) hide(score, first + warp_k * KEY_TILE + lane % 4 * 2, buffers, sizes, w);
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
      float keep[2];
      soften(score[r], top[r], sum[r], keep);
      weigh(result[r], keep);
    }
    copies_wait<1>();
    __syncthreads();
    if (step + 1 < steps) values.tile<THREADS, BK>(v_at + (TILE_BYTES - stage), first + BK, w.to);
    copies_end();
#pragma unroll
    for (int j = 0; j < KEYS; j += 2) {
      u32 left[ROW_TILES][4];
#pragma unroll
      for (int r = 0; r < ROW_TILES; r++) weights(left[r], score[r][j], score[r][j + 1]);
#pragma unroll
      for (int c = 0; c < COLUMNS; c += 2) {
        u32 right[4];
        matrices_transposed(right, v_at + stage + swizzled_across<CHUNKS, BK>(warp_k * KEY_TILE + j * 8 + lane % 16, c + lane / 16));
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
          multiply(result[r][c], left[r], right[0], right[1]);
          multiply(result[r][c + 1], left[r], right[2], right[3]);
        }
      }
    }
  }
  copies_wait<0>();
#pragma unroll
  for (int r = 0; r < ROW_TILES; r++)
#pragma unroll
    for (int half = 0; half < 2; half++) sum[r][half] = sum_of_four(sum[r][half]);

  if constexpr (WARPS_K > 1) {
    // The sets of warps add up, two by two: the upper half leaves its numbers in shared memory, the lower half takes them.
    constexpr int NUMBERS = ROW_TILES * (COLUMNS * 4 + 4);
#pragma unroll
    for (int half = WARPS_K / 2; half > 0; half /= 2) {
      __syncthreads();
      float* there = reinterpret_cast<float*>(memory) + (warp_k % half * WARPS_Q + warp_q) * 32 * NUMBERS + lane;
      if (warp_k >= half && warp_k < 2 * half) {
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
          float* at = there + r * (COLUMNS * 4 + 4) * 32;
#pragma unroll
          for (int c = 0; c < COLUMNS * 4; c++) at[c * 32] = result[r][c / 4][c % 4];
#pragma unroll
          for (int h = 0; h < 2; h++) at[(COLUMNS * 4 + h) * 32] = top[r][h], at[(COLUMNS * 4 + 2 + h) * 32] = sum[r][h];
        }
      }
      __syncthreads();
      if (warp_k < half) {
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
          const float* at = there + r * (COLUMNS * 4 + 4) * 32;
          float mine[2], other[2];
#pragma unroll
          for (int h = 0; h < 2; h++) {
            const float theirs = at[(COLUMNS * 4 + h) * 32], most = fmaxf(top[r][h], theirs);
            mine[h] = power((top[r][h] - most) * FACTOR), other[h] = power((theirs - most) * FACTOR);
            top[r][h] = most;
            sum[r][h] = sum[r][h] * mine[h] + at[(COLUMNS * 4 + 2 + h) * 32] * other[h];
          }
#pragma unroll
          for (int c = 0; c < COLUMNS * 4; c++)
            result[r][c / 4][c % 4] = result[r][c / 4][c % 4] * mine[c % 4 / 2] + at[c * 32] * other[c % 4 / 2];
        }
      }
    }
    if (warp_k > 0) return;
  }

  finish(result, top, sum, warp_q, buffers, sizes, w);
}
