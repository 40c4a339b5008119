// Gradient of attention with `mma`.

// Whether a warp holds its kept rows in registers: it reads only walked ones from shared memory then.
constexpr bool HOLDS = OF_QUERIES;
constexpr int FACTORS = HOLDS ? DEPTHS : 1;

// A warp's kept rows as left factors of a product, for one depth.
__device__ __forceinline__ void kept_factor(u32 (&left)[4], u32 kept, u32 row, int depth) {
  const u32 lane = threadIdx.x % 32;
  matrices(left, kept + swizzled_across<CHUNKS, KEPT>(row + lane % 16, depth * 2 + lane / 16));
}

// Products of this warp's kept rows with the walked rows at `walked`. The kept rows are in `factors`, or at `kept`.
__device__ __forceinline__ void dots(float (&sums)[OTHERS][4], const u32 (&factors)[FACTORS][4], u32 kept, u32 walked, u32 row, u32 other) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < OTHERS; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[j][e] = 0.0f;
#pragma unroll
  for (int d = 0; d < DEPTHS; d++) {
    u32 left[4];
    if constexpr (HOLDS) {
#pragma unroll
      for (int i = 0; i < 4; i++) left[i] = factors[d][i];
    } else {
      kept_factor(left, kept, row, d);
    }
#pragma unroll
    for (int j = 0; j < OTHERS; j += 2) {
      u32 right[4];
      matrices(right, walked + swizzled_across<CHUNKS, WALKED>(other + j * 8 + lane % 8 + lane / 16 * 8, d * 2 + lane / 8 % 2));
      multiply(sums[j], left, right[0], right[1]);
      multiply(sums[j + 1], left, right[2], right[3]);
    }
  }
}

// Adds the walked rows, weighted.
__device__ __forceinline__ void spread(float (&sums)[COLUMNS][4], const float (&weight)[OTHERS][4], u32 walked, u32 other) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < OTHERS; j += 2) {
    u32 left[4];
    weights(left, weight[j], weight[j + 1]);
#pragma unroll
    for (int c = 0; c < COLUMNS; c += 2) {
      u32 right[4];
      matrices_transposed(right, walked + swizzled_across<CHUNKS, WALKED>(other + j * 8 + lane % 16, c + lane / 16));
      multiply(sums[c], left, right[0], right[1]);
      multiply(sums[c + 1], left, right[2], right[3]);
    }
  }
}

// Adds up what the sets of warps have, in the first one's registers, two by two through shared memory.
__device__ __forceinline__ void gather(float (&sums)[COLUMNS][4], float* memory, u32 kept, u32 set) {
#pragma unroll
  for (int half = WARPS_WALKED / 2; half > 0; half /= 2) {
    float* there = memory + (set % half * WARPS_KEPT + kept) * 32 * COLUMNS * 4 + threadIdx.x % 32;
    __syncthreads();
    if (set >= half && set < 2 * half) {
#pragma unroll
      for (int c = 0; c < COLUMNS * 4; c++) there[c * 32] = sums[c / 4][c % 4];
    }
    __syncthreads();
    if (set < half) {
#pragma unroll
      for (int c = 0; c < COLUMNS * 4; c++) sums[c / 4][c % 4] += there[c * 32];
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  const u32 warp = threadIdx.x / 32, row = warp % WARPS_KEPT * 16, set = warp / WARPS_KEPT;
  Work w;
  if (!work_of(w, buffers, sizes)) return;
  const u32 kept = shared_address(memory), walked = kept + 2 * KEPT_BYTES;
  float2* const stats = reinterpret_cast<float2*>(memory + 2 * KEPT_BYTES + 4 * TILE_BYTES);
  uint4* const seen = reinterpret_cast<uint4*>(stats + STAGES * STATISTICS);
  Source mine[2];
  kept_rows(mine, buffers, sizes, w);
  mine[0].tile<THREADS, KEPT>(kept, w.first, w.end);
  mine[1].tile<THREADS, KEPT, OF_QUERIES ? LANES : CHUNKS>(kept + KEPT_BYTES, w.first, w.end);
  copies_end();
  Results results;
  if constexpr (OF_QUERIES) results.fetch(buffers, sizes, w.entry, w.head, w.first, w.end);

  float result[COLUMNS][4] = {}, values[COLUMNS][4] = {};
  u32 first_kept[FACTORS][4], second_kept[FACTORS][4];
  // Context tokens meet the queries of every batch entry, in their order.
  const u32 turns = OF_CONTEXT ? sizes[BATCHES] : 1;
  for (u32 turn = 0; turn < turns; turn++) {
    const u32 batch = OF_CONTEXT ? turn : w.entry;
    Source of[2];
    walked_rows(of, buffers, sizes, w, batch);
    const u32 steps = w.to > w.from ? (w.to - w.from + WALKED - 1) / WALKED : 0;
    // Every warp has done with the tiles of the turn before.
    __syncthreads();
    if (steps > 0) {
      of[0].tile<THREADS, WALKED>(walked, w.from, w.to);
      of[1].tile<THREADS, WALKED, OF_QUERIES ? CHUNKS : LANES>(walked + TILE_BYTES, w.from, w.to);
      if constexpr (!OF_QUERIES) results.fetch(buffers, sizes, batch, w.head, w.from, w.to);
      if constexpr (PARTED) see(seen, buffers, sizes, w.from);
    }
    copies_end();
    if constexpr (OF_QUERIES) {
      copies_wait<1>();
      results.put(stats, kept + KEPT_BYTES);
      __syncthreads();
#pragma unroll
      for (int d = 0; d < FACTORS; d++) kept_factor(first_kept[d], kept, row, d), kept_factor(second_kept[d], kept + KEPT_BYTES, row, d);
    }
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
      const u32 start = w.from + step * WALKED, stage = walked + step % 2 * (2 * TILE_BYTES), other = walked + (step + 1) % 2 * (2 * TILE_BYTES);
      float2* const told = stats + step % STAGES * STATISTICS;
      copies_wait<0>();
      if constexpr (!OF_QUERIES) results.put(told, stage + TILE_BYTES);
      // This tile is there, and all warps have done with the one before it.
      __syncthreads();
      if (step + 1 < steps) {
        of[0].tile<THREADS, WALKED>(other, start + WALKED, w.to);
        of[1].tile<THREADS, WALKED, OF_QUERIES ? CHUNKS : LANES>(other + TILE_BYTES, start + WALKED, w.to);
        if constexpr (!OF_QUERIES) results.fetch(buffers, sizes, batch, w.head, start + WALKED, w.to);
        // Those of the tile before were read before the barrier.
        if constexpr (PARTED) see(seen + (step + 1) % STAGES * WALKED, buffers, sizes, start + WALKED);
      }
      copies_end();
      float score[OTHERS][4], slope[OTHERS][4];
      dots(score, first_kept, kept, stage, row, set * WALK);
      dots(slope, second_kept, kept + KEPT_BYTES, stage + TILE_BYTES, row, set * WALK);
      const Pairs pairs = {batch, row, start, set * WALK, told, seen + step % STAGES * WALKED};
      const u32 hidden = pairs.weights(score, buffers, sizes, w);
      pairs.slopes(slope, score, hidden);
      spread(result, slope, stage, set * WALK);
      if constexpr (!OF_QUERIES) spread(values, score, stage + TILE_BYTES, set * WALK);
    }
    copies_wait<0>();
  }

  if constexpr (WARPS_WALKED > 1) {
    gather(result, reinterpret_cast<float*>(memory), warp % WARPS_KEPT, set);
    if constexpr (!OF_QUERIES) gather(values, reinterpret_cast<float*>(memory), warp % WARPS_KEPT, set);
    if (set > 0) return;
  }
  finish(result, values, row, buffers, sizes, w);
}
