// Gradient of softmax attention on tensor cores, as `kernels::attention_grad` does it: a cube *keeps* a block of rows whose gradients it sums up
// and walks through the rows that they meet. Kept and walked rows are multiplied twice, first with first (`q` with `k`) and second with second
// (`g` with `v`); weights times walked rows are added up. WARPS_KEPT warps have 16 kept rows each; WARPS_WALKED sets of them share the walked rows
// of a tile and add up at the end. The sizes are that kernel's.

constexpr int THREADS = 32 * WARPS_KEPT * WARPS_WALKED;
constexpr int KEPT = WARPS_KEPT * 16, WALKED = WARPS_WALKED * WALK;
constexpr int CHUNKS = DIM / 8, DEPTHS = DIM / 16, COLUMNS = DIM / 8, OTHERS = WALK / 8;
constexpr int KEPT_BYTES = KEPT * DIM * 2, TILE_BYTES = WALKED * DIM * 2;
constexpr int RESULT = LEADING + 6 * LEAD, GRADIENT = RESULT + 3, SUMS = GRADIENT + 3;
// Queries of which log-sum-exp and the sum of result times gradient are kept in shared memory: of walked ones those of two tiles, so that a warp
// writes the next tile's while others read this one's.
constexpr int STATISTICS = OF_QUERIES ? KEPT : WALKED, STAGES = OF_QUERIES ? 1 : 2;
// Whether the queries that keys walk through see different ones of them: which, is written beside the statistics.
constexpr bool PARTED = OF_KEYS && KEYS_ARE != KEYS_ALL;
// Whether a warp holds its kept rows in registers: it reads only walked ones from shared memory then.
constexpr bool HOLDS = OF_QUERIES;
constexpr int FACTORS = HOLDS ? DEPTHS : 1;
// Lanes that share a row of the gradient: their accesses of shared memory meet no bank twice.
constexpr int LANES = CHUNKS < 8 ? CHUNKS : 8;

// The result's rows of some queries and their log-sum-exp, on the way in registers while the gradient's rows are on the way to shared memory.
// A thread has the chunks that `Source::tile` with as many LANES lets it copy: it needs to wait for its own copies only.
struct Results {
  static constexpr int STEP = THREADS / LANES, ROUNDS = (STATISTICS + STEP - 1) / STEP, PIECES = CHUNKS / LANES;
  static_assert(ROUNDS <= LANES, "a lane has one log-sum-exp");
  uint4 rows[ROUNDS][PIECES] = {};
  float lse = 0.0f; // of the round that this lane writes down

  // Fetches those of the queries `first .. end`. Behind them there is anything: those pairs are hidden, or their sums are not stored.
  __device__ __forceinline__ void fetch(const Buffers& buffers, const u32* sizes, u32 batch, u32 head, u32 first, u32 end) {
    const half_t* results = O_BUFFER + base<RESULT, 4>(sizes, batch, head) + threadIdx.x % LANES * 8;
    const auto* sums = LSE_BUFFER + (batch * sizes[HEADS] + head) * sizes[QUERIES] + sizes[SUMS];
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
      const u32 row = threadIdx.x / LANES + i * STEP, query = first + row;
      const bool there = row < STATISTICS && query < end;
#pragma unroll
      for (int k = 0; k < PIECES; k++)
        if (there) rows[i][k] = *reinterpret_cast<const uint4*>(results + query * sizes[RESULT + 1] + k * LANES * 8);
      if (there && threadIdx.x % LANES == i) lse = to_float(sums[query]);
    }
  }

  // Puts for each query the log-sum-exp in powers of two and the sum of result times gradient, whose rows are at `gradients`, to `to`.
  __device__ __forceinline__ void put(float2* to, u32 gradients) const {
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
      const u32 row = threadIdx.x / LANES + i * STEP;
      float sum = 0.0f;
#pragma unroll
      for (int k = 0; k < PIECES; k++) {
        if (row >= STATISTICS) continue;
        u32 g[4];
        const u32 o[4] = {rows[i][k].x, rows[i][k].y, rows[i][k].z, rows[i][k].w};
        shared_words(g, gradients + swizzled_across<CHUNKS, STATISTICS>(row, threadIdx.x % LANES + k * LANES));
#pragma unroll
        for (int e = 0; e < 4; e++) sum = fmaf(high(o[e]), high(g[e]), fmaf(low(o[e]), low(g[e]), sum));
      }
#pragma unroll
      for (int lanes = LANES / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
      if (threadIdx.x % LANES == i && row < STATISTICS) to[row] = make_float2(lse * LOG2E, sum);
    }
  }
};

// The keys that one query sees.
__device__ __forceinline__ Group of_query(const Buffers& buffers, const u32* sizes, u32 query) {
  u32 index = 0;
#if KEYS_ARE == KEYS_WINDOW
  index = query / sizes[PER_FRAME];
#elif KEYS_ARE == KEYS_NEAREST
  // Queries behind the last are hidden; their product could be too large.
  index = min(query, sizes[QUERIES]) * sizes[GROUPS] / sizes[QUERIES];
#endif
  return group_of(sizes, index, COUNT_OF(sizes));
}

// Writes down which keys the queries of a tile from `first` on see: where they begin, how many they are, how often the first and the last count.
__device__ __forceinline__ void see(uint4* to, const Buffers& buffers, const u32* sizes, u32 first) {
  static_assert(WALKED <= THREADS, "a thread has one query");
  if (threadIdx.x >= WALKED) return;
  const Group seen = of_query(buffers, sizes, first + threadIdx.x);
  to[threadIdx.x] = make_uint4(seen.key, seen.keys, seen.first, seen.last);
}

// From which query to which (behind the last) the keys `first .. end` may be seen: those between see one of them or none.
__device__ __forceinline__ void met_queries(const Buffers& buffers, const u32* sizes, u32 first, u32 end, u32& from, u32& to) {
  const u32 queries = sizes[QUERIES];
  from = 0, to = queries;
#if KEYS_ARE == KEYS_NEAREST
  const u32 frames = sizes[GROUPS], per = sizes[PER_FRAME];
  from = min((first / per * queries + frames - 1) / frames, queries);
  to = max(min(((max(end, 1u) - 1) / per * queries + queries + frames - 1) / frames, queries), from);
#elif KEYS_ARE == KEYS_WINDOW
  // Windows move on with the frames: those that overlap the block are neighbours.
  to = 0;
  for (u32 frame = 0; frame < sizes[GROUPS]; frame++) {
    const Group seen = group_of(sizes, frame, COUNT_OF(sizes));
    if (seen.key < end && seen.key + seen.keys > first) {
      if (to == 0) from = seen.query;
      to = seen.query_end;
    }
  }
#endif
}

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
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = warp % WARPS_KEPT * 16, set = warp / WARPS_KEPT;
  u32 item = cube_number();
  if (item >= sizes[CUBES]) return;
  const u32 block = item % sizes[BLOCKS];
  item /= sizes[BLOCKS];
  const u32 head = item % sizes[HEADS];
  item /= sizes[HEADS];
  const u32 index = OF_QUERIES ? item % sizes[GROUPS] : 0, entry = OF_QUERIES ? item / sizes[GROUPS] : item;
  const Group group = group_of(sizes, index, COUNT_OF(sizes));
  const u32 tokens = sizes[CONTEXT];
  const u32 first = (OF_QUERIES ? group.query : 0) + block * KEPT;
  const u32 length = OF_QUERIES ? sizes[QUERIES] : OF_CONTEXT ? tokens : sizes[LENGTH], end = OF_QUERIES ? group.query_end : length;
  u32 from = 0, to = OF_QUERIES ? tokens + group.keys : sizes[QUERIES];
  if (OF_KEYS) met_queries(buffers, sizes, first, min(first + KEPT, length), from, to);

  const u32 kept = shared_address(memory), walked = kept + 2 * KEPT_BYTES;
  float2* const stats = reinterpret_cast<float2*>(memory + 2 * KEPT_BYTES + 4 * TILE_BYTES);
  uint4* const seen = reinterpret_cast<uint4*>(stats + STAGES * STATISTICS);
  // The kept rows.
  Source kept_rows[2];
  kept_rows[0].tokens = kept_rows[1].tokens = 0;
  kept_rows[0].context = kept_rows[1].context = KEPT_0, kept_rows[0].context_stride = kept_rows[1].context_stride = 0;
  if constexpr (OF_QUERIES) {
    kept_rows[0].run = KEPT_0 + base<Q, 1>(sizes, entry, head), kept_rows[0].stride = sizes[Q + 1];
    kept_rows[1].run = KEPT_1 + base<GRADIENT, 5>(sizes, entry, head), kept_rows[1].stride = sizes[GRADIENT + 1];
  } else if constexpr (OF_KEYS) {
    kept_rows[0].run = KEPT_0 + base<K, 2>(sizes, entry, head), kept_rows[0].stride = sizes[K + 1];
    kept_rows[1].run = KEPT_1 + base<V, 3>(sizes, entry, head), kept_rows[1].stride = sizes[V + 1];
  } else {
    kept_rows[0].run = KEPT_0 + sizes[CK] + head * sizes[CK + 2], kept_rows[0].stride = sizes[CK + 1];
    kept_rows[1].run = KEPT_1 + sizes[CV] + head * sizes[CV + 2], kept_rows[1].stride = sizes[CV + 1];
  }
  kept_rows[0].tile<THREADS, KEPT>(kept, first, end);
  kept_rows[1].tile<THREADS, KEPT, OF_QUERIES ? LANES : CHUNKS>(kept + KEPT_BYTES, first, end);
  copies_end();
  Results results;
  if constexpr (OF_QUERIES) results.fetch(buffers, sizes, entry, head, first, end);

  float result[COLUMNS][4] = {}, values[COLUMNS][4] = {};
  u32 first_kept[FACTORS][4], second_kept[FACTORS][4];
  // Context tokens meet the queries of every batch entry, in their order.
  const u32 turns = OF_CONTEXT ? sizes[BATCHES] : 1;
  for (u32 turn = 0; turn < turns; turn++) {
    const u32 batch = OF_CONTEXT ? turn : entry;
    Source of[2];
    of[0].tokens = of[1].tokens = OF_QUERIES ? tokens : 0;
    of[0].context = of[1].context = WALKED_0, of[0].context_stride = of[1].context_stride = 0;
    if constexpr (OF_QUERIES) {
      of[0].stride = sizes[K + 1], of[1].stride = sizes[V + 1];
      of[0].run = WALKED_0 + base<K, 2>(sizes, batch, head) + group.key * of[0].stride;
      of[1].run = WALKED_1 + base<V, 3>(sizes, batch, head) + group.key * of[1].stride;
#ifdef CK_BUFFER
      of[0].context = CK_BUFFER + sizes[CK] + head * sizes[CK + 2], of[0].context_stride = sizes[CK + 1];
      of[1].context = CV_BUFFER + sizes[CV] + head * sizes[CV + 2], of[1].context_stride = sizes[CV + 1];
#endif
    } else {
      of[0].run = WALKED_0 + base<Q, 1>(sizes, batch, head), of[0].stride = sizes[Q + 1];
      of[1].run = WALKED_1 + base<GRADIENT, 5>(sizes, batch, head), of[1].stride = sizes[GRADIENT + 1];
    }
    const u32 steps = to > from ? (to - from + WALKED - 1) / WALKED : 0;
    // Every warp has done with the tiles of the turn before.
    __syncthreads();
    if (steps > 0) {
      of[0].tile<THREADS, WALKED>(walked, from, to);
      of[1].tile<THREADS, WALKED, OF_QUERIES ? CHUNKS : LANES>(walked + TILE_BYTES, from, to);
      if constexpr (!OF_QUERIES) results.fetch(buffers, sizes, batch, head, from, to);
      if constexpr (PARTED) see(seen, buffers, sizes, from);
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
      const u32 start = from + step * WALKED, stage = walked + step % 2 * (2 * TILE_BYTES), other = walked + (step + 1) % 2 * (2 * TILE_BYTES);
      float2* const told = stats + step % STAGES * STATISTICS;
      const uint4* const met_keys = seen + step % STAGES * WALKED;
      copies_wait<0>();
      if constexpr (!OF_QUERIES) results.put(told, stage + TILE_BYTES);
      // This tile is there, and all warps have done with the one before it.
      __syncthreads();
      if (step + 1 < steps) {
        of[0].tile<THREADS, WALKED>(other, start + WALKED, to);
        of[1].tile<THREADS, WALKED, OF_QUERIES ? CHUNKS : LANES>(other + TILE_BYTES, start + WALKED, to);
        if constexpr (!OF_QUERIES) results.fetch(buffers, sizes, batch, head, start + WALKED, to);
        // Those of the tile before were read before the barrier.
        if constexpr (PARTED) see(seen + (step + 1) % STAGES * WALKED, buffers, sizes, start + WALKED);
      }
      copies_end();
      float score[OTHERS][4], slope[OTHERS][4];
      dots(score, first_kept, kept, stage, row, set * WALK);
      dots(slope, second_kept, kept + KEPT_BYTES, stage + TILE_BYTES, row, set * WALK);
      // Log-sum-exp and sum of two queries: of both rows, or below of both columns.
      float4 both = {};
      if constexpr (OF_QUERIES) {
        const float2 a = told[row + lane / 4], b = told[row + lane / 4 + 8];
        both = make_float4(a.x, a.y, b.x, b.y);
      }
#pragma unroll
      for (int j = 0; j < OTHERS; j++) {
        if constexpr (!OF_QUERIES) both = *reinterpret_cast<const float4*>(told + set * WALK + j * 8 + lane % 4 * 2);
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const bool second = OF_QUERIES ? e / 2 : e % 2;
          const u32 mine = row + lane / 4 + e / 2 * 8, column = set * WALK + j * 8 + lane % 4 * 2 + e % 2, met = start + column;
          float term = 0.0f;
          bool hidden = met >= to;
          if constexpr (OF_QUERIES) {
            if constexpr (HAS_TERMS) {
              if (!hidden) term = term_of(buffers, sizes, group, batch, met, tokens);
            }
          } else if constexpr (OF_KEYS) {
            Group sees = group;
            if constexpr (PARTED) {
              const uint4 keys = met_keys[column];
              sees.key = keys.x, sees.keys = keys.y, sees.first = keys.z, sees.last = keys.w;
            }
            // Before the first key it is beyond all counts.
            const u32 key = first + mine - sees.key;
            hidden = hidden || key >= sees.keys;
            if constexpr (HAS_TERMS) {
              if (!hidden) term = term_of(buffers, sizes, sees, batch, key + tokens, tokens);
            }
          }
          hidden = hidden || term < HIDDEN;
          const float p = hidden ? 0.0f : power(fmaf(score[j][e], SCALE * LOG2E, term * LOG2E - (second ? both.z : both.x)));
          // Of a pair that is hidden nothing is read: its score may be anything.
          slope[j][e] = hidden ? 0.0f : p * (slope[j][e] - (second ? both.w : both.y)) * SCALE;
          score[j][e] = p;
        }
      }
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
  // Keys past the count are not there, whatever the queries are.
  const u32 limit = HAS_COUNT && OF_KEYS ? group.keys : end;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const u32 at = first + row + lane / 4 + half * 8;
    if (at >= end) continue;
    const u32 place = ((entry * length + at) * sizes[HEADS] + head) * DIM + lane % 4 * 2;
    const bool there = at < limit;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      put2(OUT_BUFFER + sizes[OUT] + place + c * 8, there ? result[c][half * 2] : 0.0f, there ? result[c][half * 2 + 1] : 0.0f);
#ifdef VALUES_BUFFER
      put2(VALUES_BUFFER + sizes[OUT + 1] + place + c * 8, there ? values[c][half * 2] : 0.0f, there ? values[c][half * 2 + 1] : 0.0f);
#endif
    }
  }
}
