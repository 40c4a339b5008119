// Shared memory, shuffles, softmax.
#define T 16
extern "C" __global__ void matmul_tiled(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float sa[T][T];
    __shared__ float sb[T][T + 1];
    int x = threadIdx.x, y = threadIdx.y;
    int row = blockIdx.y * T + y, col = blockIdx.x * T + x;
    float acc = 0.0f;
    for (int t = 0; t < k; t += T) {
        sa[y][x] = a[row * k + t + x];
        sb[y][x] = b[(t + y) * n + col];
        __syncthreads();
        for (int i = 0; i < T; i++) acc += sa[y][i] * sb[i][x];
        __syncthreads();
    }
    c[row * n + col] = acc;
}
extern "C" __global__ void softmax(const float* in, float* out, int n) {
    extern __shared__ float part[];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const float* row = in + blockIdx.x * n;
    float best = -1e30f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) best = fmaxf(best, row[i]);
    for (int o = 16; o; o >>= 1) best = fmaxf(best, __shfl_xor_sync(~0u, best, o));
    if (lane == 0) part[warp] = best;
    __syncthreads();
    for (int w = 0; w < warps; w++) best = fmaxf(best, part[w]);
    __syncthreads();
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += __expf(row[i] - best);
    for (int o = 16; o; o >>= 1) sum += __shfl_down_sync(~0u, sum, o);
    if (lane == 0) part[warp] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int w = 0; w < warps; w++) sum += part[w];
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[blockIdx.x * n + i] = __expf(row[i] - best) / sum;
}
extern "C" __global__ void warp_ops(const int* in, int* out) {
    int i = threadIdx.x;
    int x = in[i];
    out[0 * 32 + i] = __shfl_sync(~0u, x, (i * 5) & 31);
    out[1 * 32 + i] = __shfl_up_sync(~0u, x, 3, 16);
    out[2 * 32 + i] = __shfl_down_sync(~0u, x, 3, 8);
    out[3 * 32 + i] = __ballot_sync(~0u, x & 1);
    out[4 * 32 + i] = __any_sync(~0u, x == 3) + 2 * __all_sync(~0u, x < 1000);
    out[5 * 32 + i] = __reduce_add_sync(~0u, x);
    out[6 * 32 + i] = __reduce_min_sync(~0u, x);
    out[7 * 32 + i] = __match_any_sync(~0u, x & 3);
    out[8 * 32 + i] = __activemask();
    if (i < 16) out[9 * 32 + i] = __shfl_xor_sync(0xffff, x, 1); else out[9 * 32 + i] = -1;
    __syncwarp();
}
