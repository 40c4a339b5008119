// Elementwise, loops, divergence, local arrays, atomics.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void vadd(const float* a, const float* b, float* c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}
extern "C" __global__ void vadd4(const float4* __restrict__ a, const float4* __restrict__ b, float4* c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float4 x = a[i], y = b[i];
    c[i] = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
}
// Collatz lengths: lanes leave the loop at different times.
extern "C" __global__ void collatz(const unsigned* in, unsigned* out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned x = in[i], n = 0;
    while (x != 1) {
        if (x & 1) x = 3 * x + 1; else x >>= 1;
        n++;
        if (n > 1000) break;
    }
    switch (i & 7) { case 0: n += 100; break; case 1: n ^= 3; break; case 2: n *= 7; break; case 3: n -= 9; break; case 4: n = n * n; break; case 5: n |= 64; break; case 6: n = ~n; break; default: n <<= 2; }
    out[i] = n;
}
extern "C" __global__ void math(const float* in, float* out, int n) {
    int i = threadIdx.x;
    float x = in[i];
    out[0 * n + i] = expf(x);
    out[1 * n + i] = logf(fabsf(x) + 0.1f);
    out[2 * n + i] = sinf(x);
    out[3 * n + i] = cosf(x);
    out[4 * n + i] = tanhf(x);
    out[5 * n + i] = sqrtf(fabsf(x));
    out[6 * n + i] = rsqrtf(fabsf(x) + 0.1f);
    out[7 * n + i] = 1.0f / x;
    out[8 * n + i] = powf(fabsf(x), 1.7f);
    out[9 * n + i] = __expf(x);
    out[10 * n + i] = erff(x);
    out[11 * n + i] = floorf(x) + ceilf(x) + rintf(x) + truncf(x);
    out[12 * n + i] = fmodf(x, 0.7f);
    out[13 * n + i] = __fdividef(x, 3.0f);
    out[14 * n + i] = (float)exp((double)x);
    out[15 * n + i] = atan2f(x, 0.5f);
}
extern "C" __global__ void ints(const int* in, int* out, int n) {
    int i = threadIdx.x;
    int x = in[i], y = in[(i + 7) % n];
    out[0 * n + i] = y ? x / y : 0;
    out[1 * n + i] = y ? x % y : 0;
    out[2 * n + i] = __mulhi(x, y);
    out[3 * n + i] = __clz(x);
    out[4 * n + i] = __popc(x);
    out[5 * n + i] = __brev(x);
    out[6 * n + i] = __byte_perm(x, y, 0x5142);
    out[7 * n + i] = __funnelshift_l(x, y, i);
    out[8 * n + i] = __dp4a(x, y, i);
    out[9 * n + i] = min(x, y) ^ max(x, y);
    out[10 * n + i] = __ffs(x);
    out[11 * n + i] = (int)((long long)x * y >> 17);
    out[12 * n + i] = (x & y) | (~x & i);
    out[13 * n + i] = (int)(signed char)x;
    out[14 * n + i] = (unsigned)x / 7u;
    out[15 * n + i] = (int)((unsigned long long)x / (unsigned long long)(unsigned)(y | 1));
}
extern "C" __global__ void converts(const float* in, __half* h, __nv_bfloat16* b, float* back, int* k, int n) {
    int i = threadIdx.x;
    float x = in[i];
    h[i] = __float2half(x);
    b[i] = __float2bfloat16(x);
    __half2 p = __floats2half2_rn(x, x * 0.5f);
    __nv_bfloat162 q = __floats2bfloat162_rn(x, x * 0.25f);
    p = __hfma2(p, p, __float2half2_rn(1.0f));
    q = __hfma2(q, q, __float2bfloat162_rn(1.0f));
    back[0 * n + i] = __half2float(p.x) + __half2float(p.y);
    back[1 * n + i] = __bfloat162float(q.x) + __bfloat162float(q.y);
    back[2 * n + i] = __half2float(h[i]);
    back[3 * n + i] = __bfloat162float(b[i]);
    back[4 * n + i] = __half2float(hexp(__hadd(h[i], __float2half(0.5f))));
    back[5 * n + i] = __bfloat162float(__hmul(b[i], __hadd(b[i], __float2bfloat16(2.0f))));
    back[6 * n + i] = __hgt(h[i], __float2half(0.0f)) ? __half2float(__hmax(h[i], __hneg(h[i]))) : -1.0f;
    back[7 * n + i] = (float)(unsigned char)(int)x;
    k[0 * n + i] = (int)x;
    k[1 * n + i] = (int)(unsigned)x;
    k[2 * n + i] = __float2int_rn(x);
    k[3 * n + i] = __half2int_rz(h[i]);
}
extern "C" __global__ void atomics(const int* in, int* sums, float* fsum, int n) {
    __shared__ int local[4];
    if (threadIdx.x < 4) local[threadIdx.x] = 0;
    __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&local[in[i] & 3], in[i]);
    atomicMax(&sums[4], in[i]);
    atomicMin(&sums[5], in[i]);
    atomicAdd(fsum, (float)in[i]);
    atomicCAS(&sums[6], 0, 5);
    atomicOr(&sums[7], in[i]);
    __syncthreads();
    if (threadIdx.x < 4) atomicAdd(&sums[threadIdx.x], local[threadIdx.x]);
}
__constant__ int table[8] = {3, 1, 4, 1, 5, 9, 2, 6};
__device__ float bias[4] = {1.5f, 2.5f, 3.5f, 4.5f};
extern "C" __global__ void tables(float* out, const int* idx) {
    float tmp[16];
    for (int i = 0; i < 16; i++) tmp[i] = (float)(i * i);
    int i = threadIdx.x;
    tmp[idx[i] & 15] += bias[i & 3];
    float s = 0;
    for (int k = 0; k < 16; k++) s += tmp[(idx[i] + k) & 15] * (float)table[k & 7];
    out[i] = s;
}
__device__ __noinline__ float poly(float x, float* save) { *save = x * x; return x * x + 2.0f * x; }
extern "C" __global__ void calls(float* out) {
    float keep;
    float r = poly((float)threadIdx.x, &keep);
    if (threadIdx.x & 1) r += poly(r, &keep);
    out[threadIdx.x] = r + keep;
}
