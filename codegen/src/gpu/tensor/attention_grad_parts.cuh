// Gradient of softmax attention on tensor cores, as `kernels::attention_grad` does it: a cube *keeps* a block of rows whose gradients it sums up
// and walks through the rows that they meet. Kept and walked rows are multiplied twice, first with first (`q` with `k`) and second with second
// (`g` with `v`); weights times walked rows are added up. WARPS_KEPT warps have 16 kept rows each; WARPS_WALKED sets of them share the walked rows
// of a tile and add up at the end. The sizes are that kernel's. In registers lane l has the walked rows (or channels) 2 (l % 4) and the next one of
// every eight, for the kept rows l / 4 and 8 after it. This is what the kernels share.

constexpr int THREADS = 32 * WARPS_KEPT * WARPS_WALKED;
constexpr int KEPT = WARPS_KEPT * 16, WALKED = WARPS_WALKED * WALK;
constexpr int CHUNKS = DIM / 8, DEPTHS = DIM / 16, COLUMNS = DIM / 8, OTHERS = WALK / 8;
static_assert(WALK <= 64, "a word has a bit for each of a thread's pairs");
constexpr int KEPT_BYTES = KEPT * DIM * 2, TILE_BYTES = WALKED * DIM * 2;
constexpr int RESULT = LEADING + 6 * LEAD, GRADIENT = RESULT + 3, SUMS = GRADIENT + 3;
// Queries of which log-sum-exp and the sum of result times gradient are kept in shared memory: of walked ones by `mma` those of two tiles, so
// that a warp writes the next tile's while others read this one's.
constexpr int STATISTICS = OF_QUERIES ? KEPT : WALKED, STAGES = OF_QUERIES ? 1 : 2;
// Whether the queries that keys walk through see different ones of them: which, is written beside the statistics.
constexpr bool PARTED = OF_KEYS && KEYS_ARE != KEYS_ALL;
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

  // Puts for each query the log-sum-exp in powers of two and the scaled sum of result times gradient, whose rows are at `gradients`, to `to`.
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
      if (threadIdx.x % LANES == i && row < STATISTICS) to[row] = make_float2(lse * LOG2E, sum * SCALE);
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

// What a cube works on: the kept rows `first .. end` of so many, and the walked ones `from .. to` (of the first batch entry, for context tokens).
struct Work {
  Group group;
  u32 head, entry, first, end, length, from, to, tokens;
};

// The work of this cube; false for a surplus one.
__device__ __forceinline__ bool work_of(Work& w, const Buffers& buffers, const u32* sizes) {
  u32 item = cube_number();
  if (item >= sizes[CUBES]) return false;
  const u32 block = item % sizes[BLOCKS];
  item /= sizes[BLOCKS];
  w.head = item % sizes[HEADS];
  item /= sizes[HEADS];
  w.entry = OF_QUERIES ? item / sizes[GROUPS] : item;
  w.group = group_of(sizes, OF_QUERIES ? item % sizes[GROUPS] : 0, COUNT_OF(sizes));
  w.tokens = sizes[CONTEXT];
  w.first = (OF_QUERIES ? w.group.query : 0) + block * KEPT;
  w.length = OF_QUERIES ? sizes[QUERIES] : OF_CONTEXT ? w.tokens : sizes[LENGTH];
  w.end = OF_QUERIES ? w.group.query_end : w.length;
  w.from = 0, w.to = OF_QUERIES ? w.tokens + w.group.keys : sizes[QUERIES];
  if (OF_KEYS) met_queries(buffers, sizes, w.first, min(w.first + KEPT, w.length), w.from, w.to);
  return true;
}

// Where the kept rows are.
__device__ __forceinline__ void kept_rows(Source (&of)[2], const Buffers& buffers, const u32* sizes, const Work& w) {
  of[0].tokens = of[1].tokens = 0;
  of[0].context = of[1].context = KEPT_0, of[0].context_stride = of[1].context_stride = 0;
  if constexpr (OF_QUERIES) {
    of[0].run = KEPT_0 + base<Q, 1>(sizes, w.entry, w.head), of[0].stride = sizes[Q + 1];
    of[1].run = KEPT_1 + base<GRADIENT, 5>(sizes, w.entry, w.head), of[1].stride = sizes[GRADIENT + 1];
  } else if constexpr (OF_KEYS) {
    of[0].run = KEPT_0 + base<K, 2>(sizes, w.entry, w.head), of[0].stride = sizes[K + 1];
    of[1].run = KEPT_1 + base<V, 3>(sizes, w.entry, w.head), of[1].stride = sizes[V + 1];
  } else {
    of[0].run = KEPT_0 + sizes[CK] + w.head * sizes[CK + 2], of[0].stride = sizes[CK + 1];
    of[1].run = KEPT_1 + sizes[CV] + w.head * sizes[CV + 2], of[1].stride = sizes[CV + 1];
  }
}

// Where the walked rows of a batch entry are.
__device__ __forceinline__ void walked_rows(Source (&of)[2], const Buffers& buffers, const u32* sizes, const Work& w, u32 batch) {
  of[0].tokens = of[1].tokens = OF_QUERIES ? w.tokens : 0;
  of[0].context = of[1].context = WALKED_0, of[0].context_stride = of[1].context_stride = 0;
  if constexpr (OF_QUERIES) {
    of[0].stride = sizes[K + 1], of[1].stride = sizes[V + 1];
    of[0].run = WALKED_0 + base<K, 2>(sizes, batch, w.head) + w.group.key * of[0].stride;
    of[1].run = WALKED_1 + base<V, 3>(sizes, batch, w.head) + w.group.key * of[1].stride;
#ifdef CK_BUFFER
    of[0].context = CK_BUFFER + sizes[CK] + w.head * sizes[CK + 2], of[0].context_stride = sizes[CK + 1];
    of[1].context = CV_BUFFER + sizes[CV] + w.head * sizes[CV + 2], of[1].context_stride = sizes[CV + 1];
#endif
  } else {
    of[0].run = WALKED_0 + base<Q, 1>(sizes, batch, w.head), of[0].stride = sizes[Q + 1];
    of[1].run = WALKED_1 + base<GRADIENT, 5>(sizes, batch, w.head), of[1].stride = sizes[GRADIENT + 1];
  }
}

// A tile of pairs: this warp's kept rows from `row` on, the walked rows `start ..` of which this set has those from `column` on, and what is written
// down of queries and of what walked ones see.
struct Pairs {
  u32 batch, row, start, column;
  const float2* told;
  const uint4* seen;

  // Log-sum-exp and sum of the two queries of a thread: of both kept rows, or of both walked rows of every eight.
  __device__ __forceinline__ float4 queries(int j) const {
    const u32 lane = threadIdx.x % 32;
    if constexpr (OF_QUERIES) {
      const float2 a = told[row + lane / 4], b = told[row + lane / 4 + 8];
      return make_float4(a.x, a.y, b.x, b.y);
    } else {
      return *reinterpret_cast<const float4*>(told + column + j * 8 + lane % 4 * 2);
    }
  }
  static __device__ __forceinline__ bool second(int e) { return OF_QUERIES ? e / 2 : e % 2; }

  // Makes weights of scores; pairs that do not meet are hidden, a bit each.
  __device__ __forceinline__ u32 weights(float (&score)[OTHERS][4], const Buffers& buffers, const u32* sizes, const Work& w) const {
    const u32 lane = threadIdx.x % 32;
    u32 hidden = 0;
    if (!PARTED && !HAS_TERMS && !(OF_KEYS && HAS_COUNT) && start + WALKED <= w.to) {
#pragma unroll
      for (int j = 0; j < OTHERS; j++) {
        const float4 both = queries(j);
#pragma unroll
        for (int e = 0; e < 4; e++) score[j][e] = power(fmaf(score[j][e], SCALE * LOG2E, -(second(e) ? both.z : both.x)));
      }
      return 0;
    }
#pragma unroll
    for (int j = 0; j < OTHERS; j++) {
      const float4 both = queries(j);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const u32 mine = row + lane / 4 + e / 2 * 8, other = column + j * 8 + lane % 4 * 2 + e % 2, met = start + other;
        float term = 0.0f;
        bool hides = met >= w.to;
        if constexpr (OF_QUERIES) {
          if constexpr (HAS_TERMS) {
            if (!hides) term = term_of(buffers, sizes, w.group, batch, met, w.tokens);
          }
        } else if constexpr (OF_KEYS) {
          Group sees = w.group;
          if constexpr (PARTED) {
            const uint4 keys = seen[other];
            sees.key = keys.x, sees.keys = keys.y, sees.first = keys.z, sees.last = keys.w;
          }
          // Before the first key it is beyond all counts.
          const u32 key = w.first + mine - sees.key;
          hides = hides || key >= sees.keys;
          if constexpr (HAS_TERMS) {
            if (!hides) term = term_of(buffers, sizes, sees, batch, key + w.tokens, w.tokens);
          }
        }
        hides = hides || term < HIDDEN;
        // Of a pair that is hidden nothing is read: its score may be anything.
        score[j][e] = hides ? 0.0f : power(fmaf(score[j][e], SCALE * LOG2E, term * LOG2E - (second(e) ? both.z : both.x)));
        hidden |= u32(hides) << (j * 4 + e);
      }
    }
    return hidden;
  }

  // Makes slopes, gradients of scores, of the products of the second rows.
  __device__ __forceinline__ void slopes(float (&slope)[OTHERS][4], const float (&weight)[OTHERS][4], u32 hidden) const {
#pragma unroll
    for (int j = 0; j < OTHERS; j++) {
      const float4 both = queries(j);
#pragma unroll
      for (int e = 0; e < 4; e++) slope[j][e] = weight[j][e] * fmaf(slope[j][e], SCALE, -(second(e) ? both.w : both.y));
    }
    if (hidden == 0) return;
#pragma unroll
    for (int j = 0; j < OTHERS; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (hidden >> (j * 4 + e) & 1) slope[j][e] = 0.0f;
    }
  }
};

// Stores the gradients of 16 kept rows from `row` of the block on.
__device__ __forceinline__ void finish(const float (&result)[COLUMNS][4], const float (&values)[COLUMNS][4], u32 row, const Buffers& buffers, const u32* sizes, const Work& w) {
  const u32 lane = threadIdx.x % 32;
  // Keys past the count are not there, whatever the queries are.
  const u32 limit = HAS_COUNT && OF_KEYS ? w.group.keys : w.end;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const u32 at = w.first + row + lane / 4 + half * 8;
    if (at >= w.end) continue;
    const u32 place = ((w.entry * w.length + at) * sizes[HEADS] + w.head) * DIM + lane % 4 * 2;
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
