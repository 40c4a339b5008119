// Softmax attention on tensor cores: what its kernels share.
//
// A cube takes a block of queries of one group, batch and head, and one part of the group's keys, as `kernels::attention` does; the sizes and
// the keys that a query sees are that kernel's. WARPS_Q warps have ROW_TILES x 16 queries each; WARPS_K sets of them share the keys of a tile
// and add up at the end. In registers lane l has the keys (or channels) 2 (l % 4) and the next one of every eight, for the rows l / 4 and 8
// after it.

constexpr int WARPS = WARPS_Q * WARPS_K, THREADS = 32 * WARPS;
constexpr int BQ = WARPS_Q * ROW_TILES * 16;
constexpr int BK = WARPS_K * KEY_TILE; // keys in shared memory at a time
constexpr int CHUNKS = DIM / 8, DEPTHS = DIM / 16, COLUMNS = DIM / 8, KEYS = KEY_TILE / 8;
constexpr int Q_BYTES = BQ * DIM * 2, TILE_BYTES = BK * DIM * 2;
constexpr float FLOOR = -1e38f;
// Scores times FACTOR are powers of two; with terms they have been multiplied already.
constexpr float FACTOR = HAS_TERMS ? 1.0f : SCALE * LOG2E;

// What a cube works on.
struct Work {
  Group group;
  u32 batch, head, part, query, tokens, from, to;
};

// The work of this cube; false for a surplus one.
__device__ __forceinline__ bool work_of(Work& w, const Buffers& buffers, const u32* sizes) {
  u32 item = cube_number();
  if (item >= sizes[CUBES]) return false;
  const u32 block = item % sizes[BLOCKS];
  item /= sizes[BLOCKS];
  w.part = item % sizes[PARTS];
  item /= sizes[PARTS];
  w.head = item % sizes[HEADS];
  item /= sizes[HEADS];
  w.batch = item / sizes[GROUPS];
  w.group = group_of(sizes, item % sizes[GROUPS], COUNT_OF(sizes));
  w.query = w.group.query + block * BQ;
  w.tokens = HAS_CONTEXT ? sizes[CONTEXT] : 0;
  const u32 keys = w.tokens + w.group.keys, size = (keys + sizes[PARTS] - 1) / sizes[PARTS];
  w.from = min(w.part * size, keys);
  w.to = min(w.from + size, keys);
  return true;
}

// Brings the cube's queries to shared memory, zeros behind the last one: its first UNITS threads.
template <int UNITS>
__device__ __forceinline__ void queries_tile(u32 place, const Buffers& buffers, const u32* sizes, const Work& w) {
  constexpr int STEP = UNITS / CHUNKS;
  const half_t* q = Q_BUFFER + base<Q, 1>(sizes, w.batch, w.head);
  const u32 chunk = threadIdx.x % CHUNKS;
#pragma unroll
  for (int i = 0; i < (BQ + STEP - 1) / STEP; i++) {
    const u32 row = threadIdx.x / CHUNKS + i * STEP;
    if (BQ % STEP != 0 && row >= BQ) break;
    const bool there = w.query + row < w.group.query_end;
    copy_async<16>(place + swizzled_across<CHUNKS, BQ>(row, chunk), q + (there ? (w.query + row) * sizes[Q + 1] : 0) + chunk * 8, there ? 16 : 0);
  }
}

// Where the cube's keys and values are.
__device__ __forceinline__ void sources(Source& keys, Source& values, const Buffers& buffers, const u32* sizes, const Work& w) {
  keys.stride = sizes[K + 1], values.stride = sizes[V + 1];
  keys.run = K_BUFFER + base<K, 2>(sizes, w.batch, w.head) + w.group.key * keys.stride;
  values.run = V_BUFFER + base<V, 3>(sizes, w.batch, w.head) + w.group.key * values.stride;
  keys.tokens = values.tokens = w.tokens;
#ifdef CK_BUFFER
  keys.context = CK_BUFFER + sizes[CK] + w.head * sizes[CK + 2], keys.context_stride = sizes[CK + 1];
  values.context = CV_BUFFER + sizes[CV] + w.head * sizes[CV + 2], values.context_stride = sizes[CV + 1];
#endif
}

// Adds terms to the scores of a tile of keys and hides those that are not there. Hidden scores are infinitely low, the highest so far never is.
__device__ __forceinline__ void hide(float (&score)[ROW_TILES][KEYS][4], u32 first, const Buffers& buffers, const u32* sizes, const Work& w) {
#pragma unroll
  for (int j = 0; j < KEYS; j++) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const u32 key = first + j * 8 + e;
      float term = 0.0f;
      if constexpr (HAS_TERMS) {
        if (key < w.to) term = term_of(buffers, sizes, w.group, w.batch, key, w.tokens) * LOG2E;
      }
      term = key < w.to && !(term < HIDDEN) ? term : NOTHING;
#pragma unroll
      for (int r = 0; r < ROW_TILES; r++) {
        score[r][j][e] = HAS_TERMS ? fmaf(score[r][j][e], SCALE * LOG2E, term) : score[r][j][e] + term;
        score[r][j][e + 2] = HAS_TERMS ? fmaf(score[r][j][e + 2], SCALE * LOG2E, term) : score[r][j][e + 2] + term;
      }
    }
  }
}

// Weights may be as large as two to the power of SLACK, so that a score that is a little higher than all before changes none of the earlier ones.
constexpr float SLACK = 8.0f;

// Makes weights of the scores of 16 rows, relative to `top`, which is at most SLACK below the highest score so far; `keep` is what earlier weights
// are multiplied by.
__device__ __forceinline__ void soften(float (&score)[KEYS][4], float (&top)[2], float (&sum)[2], float (&keep)[2]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float most = FLOOR;
#pragma unroll
    for (int j = 0; j < KEYS; j++) most = fmaxf(most, fmaxf(score[j][half * 2], score[j][half * 2 + 1]));
    most = most_of_four(most);
    const bool grows = (most - top[half]) * FACTOR > SLACK;
    keep[half] = grows ? power((top[half] - most) * FACTOR) : 1.0f;
    top[half] = grows ? most : top[half];
    const float shift = -top[half] * FACTOR;
    float total = 0.0f;
#pragma unroll
    for (int j = 0; j < KEYS; j++) {
#pragma unroll
      for (int e = half * 2; e < half * 2 + 2; e++) {
        score[j][e] = power(fmaf(score[j][e], FACTOR, shift));
        total += score[j][e];
      }
    }
    sum[half] = sum[half] * keep[half] + total;
  }
}

__device__ __forceinline__ void weigh(float (&result)[COLUMNS][4], const float (&keep)[2]) {
  if (!__any_sync(~0u, keep[0] != 1.0f || keep[1] != 1.0f)) return;
#pragma unroll
  for (int c = 0; c < COLUMNS; c++)
#pragma unroll
    for (int e = 0; e < 4; e++) result[c][e] *= keep[e / 2];
}

// Stores 16 ROW_TILES rows of a warp: results divided by the sums of their weights, and the logarithms of the sums.
__device__ __forceinline__ void finish(const float (&result)[ROW_TILES][COLUMNS][4], const float (&top)[ROW_TILES][2],
                                       const float (&sum)[ROW_TILES][2], u32 warp_q, const Buffers& buffers, const u32* sizes, const Work& w) {
  const u32 lane = threadIdx.x % 32;
  // Parts come before the batch.
  const u32 entry = w.part * sizes[BATCHES] + w.batch, heads = sizes[HEADS], queries = sizes[QUERIES];
#pragma unroll
  for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 at = w.query + (warp_q * ROW_TILES + r) * 16 + lane / 4 + half * 8;
      if (at >= w.group.query_end) continue;
      const float total = sum[r][half];
      const bool nothing = total == 0.0f;
      const float inverse = nothing ? 0.0f : 1.0f / total;
      OUT_TYPE* out = OUT_BUFFER + ((entry * queries + at) * heads + w.head) * DIM + sizes[OUT] + lane % 4 * 2;
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) put2(out + c * 8, result[r][c][half * 2] * inverse, result[r][c][half * 2 + 1] * inverse);
      if (lane % 4 == 0)
        put(LSE_BUFFER + (entry * heads + w.head) * queries + at + sizes[OUT + 1], nothing ? NO_KEYS : top[r][half] * (FACTOR * LN2) + logf(total));
    }
  }
}
