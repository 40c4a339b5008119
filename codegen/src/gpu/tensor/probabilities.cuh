// The weights of attention over context tokens and a group's keys, apart from the values, in two passes over the keys: the first finds each query's
// largest score and sum, the second stores the weights. A single tile of keys is multiplied once.

__device__ __forceinline__ void scores_of(float (&score)[ROW_TILES][KEYS][4], u32 q_at, u32 k_at, u32 warp) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < ROW_TILES; r++)
#pragma unroll
    for (int j = 0; j < KEYS; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) score[r][j][e] = 0.0f;
#pragma unroll
  for (int d = 0; d < DEPTHS; d++) {
    u32 left[ROW_TILES][4];
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) matrices(left[r], q_at + swizzled_across<CHUNKS, BQ>((warp * ROW_TILES + r) * 16 + lane % 16, d * 2 + lane / 16));
#pragma unroll
    for (int j = 0; j < KEYS; j += 2) {
      u32 right[4];
      matrices(right, k_at + swizzled_across<CHUNKS, BK>(j * 8 + lane % 8 + lane / 16 * 8, d * 2 + lane / 8 % 2));
#pragma unroll
      for (int r = 0; r < ROW_TILES; r++) {
        multiply(score[r][j], left[r], right[0], right[1]);
        multiply(score[r][j + 1], left[r], right[2], right[3]);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Work w;
  if (!work_of(w, buffers, sizes)) return;
  const u32 q_at = shared_address(memory), k_at = q_at + Q_BYTES;
  Source keys, values;
  sources(keys, values, buffers, sizes, w);
  // The rest of a narrower window weighs nothing.
  const u32 width = sizes[OUT + 1], steps = (w.to + BK - 1) / BK, all = steps == 1 ? (width + BK - 1) / BK : steps + (width + BK - 1) / BK;
  queries_tile<THREADS>(q_at, buffers, sizes, w);
  keys.tile<THREADS, BK>(k_at, 0, w.to);
  copies_end();

  float top[ROW_TILES][2], sum[ROW_TILES][2] = {}, inverse[ROW_TILES][2] = {};
#pragma unroll
  for (int r = 0; r < ROW_TILES; r++) top[r][0] = top[r][1] = FLOOR;
#pragma unroll 1
  for (u32 step = 0; step < all; step++) {
    // The second pass begins with the first tile, where that is not there still.
    const bool second = step >= steps || steps == 1;
    const u32 first = (step >= steps && steps != 1 ? step - steps : step) * BK, stage = step % 2 * TILE_BYTES;
    copies_wait<0>();
    __syncthreads();
    if (step + 1 < all) keys.tile<THREADS, BK>(k_at + (TILE_BYTES - stage), (step + 1 >= steps && steps != 1 ? step + 1 - steps : step + 1) * BK, w.to);
    copies_end();
    float score[ROW_TILES][KEYS][4];
    scores_of(score, q_at, k_at + stage, warp);
    if (HAS_TERMS || first + BK > w.to) hide(score, first + lane % 4 * 2, buffers, sizes, w);
    if (step < steps) {
#pragma unroll
      for (int r = 0; r < ROW_TILES; r++) {
        const float before[2] = {top[r][0], top[r][1]};
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float most = FLOOR, total = 0.0f;
#pragma unroll
          for (int j = 0; j < KEYS; j++) most = fmaxf(most, fmaxf(score[r][j][half * 2], score[r][j][half * 2 + 1]));
          top[r][half] = fmaxf(top[r][half], most_of_four(most));
          const float shift = -top[r][half] * FACTOR;
#pragma unroll
          for (int j = 0; j < KEYS; j++)
#pragma unroll
            for (int e = half * 2; e < half * 2 + 2; e++) total += power(fmaf(score[r][j][e], FACTOR, shift));
          sum[r][half] = sum[r][half] * power((before[half] - top[r][half]) * FACTOR) + total;
          const float whole = sum_of_four(sum[r][half]);
          inverse[r][half] = whole == 0.0f ? 0.0f : 1.0f / whole;
        }
      }
    }
    if (!second) continue;
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const u32 row = w.query + (warp * ROW_TILES + r) * 16 + lane / 4 + half * 8;
        if (row >= w.group.query_end) continue;
        const u32 place = (w.batch * sizes[QUERIES] + row) * width;
        const float shift = -top[r][half] * FACTOR;
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const u32 key = first + lane % 4 * 2 + j * 8 + e;
            const float weight = power(fmaf(score[r][j][half * 2 + e], FACTOR, shift)) * inverse[r][half];
            if (key < width) put(OUT_BUFFER + sizes[OUT] + (place + key) * sizes[HEADS] + w.head, weight);
          }
        }
      }
    }
  }
  copies_wait<0>();
}
