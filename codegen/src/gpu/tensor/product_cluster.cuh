// A matrix product with an epilogue on tensor cores where there are few tiles of the result: SLICES cubes that lie together (a cluster) share the depth
// of one. Each multiplies every SLICES-th part of it, leaves its sums in its shared memory, and adds up pieces of the tile, 16 rows of a strip each,
// over all cubes in their order.

constexpr int WARPS = SETS * 4, PIECES = WARPS * STRIPS;
constexpr int TOGETHER = SLICES < 4 ? SLICES : 4; // cubes that are read at once
static_assert(SLICES % TOGETHER == 0 && MI == 1);
static_assert(PIECES * 16 * STRIP * 4 <= STRIPS_AT, "sums take the place of tiles");

// All units of a cluster meet, and see what was written before.
__device__ __forceinline__ void cluster_meet() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Four numbers from the shared memory of a cube of the cluster.
__device__ __forceinline__ float4 theirs(u32 at, u32 cube) {
  u32 there;
  float4 x;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(cube));
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(there) : "memory");
  return x;
}

// Where in shared memory a unit has four sums of a piece, in numbers: those of neighbouring units lie side by side.
__device__ __forceinline__ u32 kept_at(u32 piece, int j) { return ((piece * (STRIP / 8) + j) * 32 + threadIdx.x % 32) * 4; }

extern "C" __global__ void __cluster_dims__(SLICES, 1, 1) __launch_bounds__(THREADS, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  const u32 set = threadIdx.x / 128, warp = threadIdx.x / 32, slice = blockIdx.x % SLICES;
  const Part part(blockIdx.x / SLICES, sizes[4], sizes[5]);
  if (threadIdx.x == SETS * 128) announce(a_map), announce(b_map);
  Pipeline pipeline(memory, slice, sizes[3]);
  if (threadIdx.x / 32 > SETS * 4) pipeline.foresee(B_BUFFER + sizes[AT_B], sizes, part);
  in_turn();
  if (set < SETS) {
    float sums[MI][NI][4];
    pipeline.multiply(sums, set, []() {});
    // All that multiply have read this cube's tiles.
    asm volatile("bar.sync 1, %0;" ::"n"(SETS * 128) : "memory");
#pragma unroll
    for (int j = 0; j < NI; j++)
      *reinterpret_cast<float4*>(memory + kept_at(warp * STRIPS + j / 8, j % 8) * 4) = make_float4(sums[0][j][0], sums[0][j][1], sums[0][j][2], sums[0][j][3]);
  } else {
    if (threadIdx.x == SETS * 128) pipeline.ask(a_map, b_map, part);
    __syncwarp();
  }
  cluster_meet();
  if (set < SETS) {
    float* place = reinterpret_cast<float*>(memory + STRIPS_AT) + warp * (16 * PITCH);
    for (u32 piece = warp * SLICES + slice; piece < PIECES; piece += WARPS * SLICES) {
      Ending<1> ending = {part.first_row + piece / STRIPS * 16, part.first_column + piece % STRIPS * STRIP};
      ending.prepare(buffers, sizes);
      float whole[STRIP / 8][4];
#pragma unroll
      for (int j = 0; j < STRIP / 8; j++) {
        const u32 at = pipeline.shared + kept_at(piece, j) * 4;
#pragma unroll
        for (int e = 0; e < 4; e++) whole[j][e] = 0.0f;
#pragma unroll
        for (int first = 0; first < SLICES; first += TOGETHER) {
          float4 of[TOGETHER];
#pragma unroll
          for (int s = 0; s < TOGETHER; s++) of[s] = theirs(at, first + s);
#pragma unroll
          for (int s = 0; s < TOGETHER; s++) whole[j][0] += of[s].x, whole[j][1] += of[s].y, whole[j][2] += of[s].z, whole[j][3] += of[s].w;
        }
      }
      ending.strip(whole, 0, place, buffers, sizes);
    }
  }
  // No cube goes while another reads its sums.
  cluster_meet();
}
