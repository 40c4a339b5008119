// Which keys the queries of a cube see, where they are, and bringing a tile of them to shared memory.

// Positions in the sizes, as `kernels::attention_keys::at`.
enum { CUBES, HEADS, QUERIES, LENGTH, BATCHES, BLOCKS, GROUPS, PARTS, CONTEXT, PER_FRAME, WINDOW, MASK = 14, COUNT = 16, OUT = 17, Q = 19, K = 22, V = 25, CK = 28, CV = 31, LEADING = 34 };

struct Group {
  u32 query, query_end, key, keys, first, last;
};

// Group `index` of a partition, as `ccl_ir::partition` defines it.
__device__ __forceinline__ Group group_of(const u32* sizes, u32 index, int count) {
  u32 length = sizes[LENGTH];
  Group g = {0, sizes[QUERIES], 0, length, 1, 1};
  if constexpr (HAS_COUNT) g.keys = min(u32(max(count, 0)), length);
#if KEYS_ARE == KEYS_NEAREST
  u32 frames = sizes[GROUPS], queries = sizes[QUERIES];
  g.query = (index * queries + frames - 1) / frames;
  g.query_end = min((index * queries + queries + frames - 1) / frames, queries);
  g.keys = sizes[PER_FRAME];
  g.key = index * g.keys;
#elif KEYS_ARE == KEYS_WINDOW
  u32 per = sizes[PER_FRAME];
  g.query = index * per;
  g.query_end = g.query + per;
  int size = sizes[WINDOW], end = length;
  int start = int((sizes[WINDOW + 1] * index + sizes[WINDOW + 2]) / sizes[WINDOW + 3]) - size / 2;
#if EDGE == EDGE_SHIFT
  size = min(size, end);
  g.key = min(max(start, 0), end - size);
  g.keys = size;
#elif EDGE == EDGE_MASK
  int a = min(max(start, 0), end), keys = min(max(start + size, a), end) - a;
  // Where there is none, not behind the last: what is not brought has an address all the same.
  g.key = keys ? a : 0;
  g.keys = keys;
#else
  // Tokens before the clip become its first key, those after it its last; a window wholly outside is one key that counts `size` times.
  int before = min(max(-start, 0), size), after = min(max(start + size - end, 0), size);
  int a = min(max(start, 0), end - 1), b = max(min(max(start + size, 1), end), a + 1);
  bool inside = before + after < size;
  g.key = a;
  g.keys = b - a;
  g.first = inside ? 1 + before : size;
  g.last = inside ? 1 + after : 1;
#endif
#endif
  return g;
}

// First element of a batch entry and head of the operand whose sizes are at AT; NUMBER counts `q, k, v` from 1.
template <int AT, int NUMBER>
__device__ __forceinline__ u32 base(const u32* sizes, u32 batch, u32 head) {
  return sizes[AT] + head * sizes[AT + 2] + distance<LEAD>(sizes, batch, LEADING, LEADING + NUMBER * LEAD);
}

// What is added to the scores of a key: the mask, or `ln n` for a key that counts `n` times.
__device__ __forceinline__ float term_of(const Buffers& buffers, const u32* sizes, const Group& g, u32 batch, u32 key, u32 tokens) {
#ifdef MASK_BUFFER
  return to_float(MASK_BUFFER[sizes[MASK] + batch % sizes[MASK + 1] * sizes[LENGTH] + key]);
#elif KEYS_ARE == KEYS_WINDOW && EDGE == EDGE_REPLICATE
  // The first key and the last may be the same.
  return __logf(float(1 + (key == tokens ? g.first - 1 : 0) + (key + 1 == tokens + g.keys ? g.last - 1 : 0)));
#else
  return 0.0f;
#endif
}

// Rows of keys or values: those of the context, then a run of the others.
struct Source {
  const half_t *run, *context;
  u32 stride, context_stride, tokens;

  // Brings ROWS rows from `first` on to shared memory, zeros from `to` on: `unit` is one of THREADS. LANES neighbours share a row.
  template <int THREADS, int ROWS, int LANES = DIM / 8>
  __device__ __forceinline__ void tile(u32 place, u32 first, u32 to, u32 unit = threadIdx.x) const {
    constexpr int CHUNKS = DIM / 8, STEP = THREADS / LANES;
#pragma unroll
    for (int i = 0; i < (ROWS + STEP - 1) / STEP; i++) {
      u32 row = unit / LANES + i * STEP, key = first + row;
      if (ROWS % STEP != 0 && row >= ROWS) break;
      const half_t* from = run;
      if (key < to) {
        if constexpr (HAS_CONTEXT)
          from = key < tokens ? context + key * context_stride : run + (key - tokens) * stride;
        else
          from = run + key * stride;
      }
#pragma unroll
      for (int k = 0; k < CHUNKS / LANES; k++) {
        const u32 chunk = unit % LANES + k * LANES;
        copy_async<16>(place + swizzled_across<CHUNKS, ROWS>(row, chunk), from + chunk * 8, key < to ? 16 : 0);
      }
    }
  }
};

// Scores below HIDDEN are of hidden keys.
constexpr float HIDDEN = -5e37f, LN2 = 0.6931471805599453f, LOG2E = 1.4426950408889634f;
#define NOTHING __int_as_float(0xff800000) // minus infinity

// The largest of four lanes' numbers; their sum.
__device__ __forceinline__ float most_of_four(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float sum_of_four(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
// 2 to the power of x.
__device__ __forceinline__ float power(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Weights as the left factor of a product, for the keys of two columns of scores.
__device__ __forceinline__ void weights(u32 (&left)[4], const float (&a)[4], const float (&b)[4]) {
  left[0] = pack(a[0], a[1]), left[1] = pack(a[2], a[3]), left[2] = pack(b[0], b[1]), left[3] = pack(b[2], b[3]);
}
