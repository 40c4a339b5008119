// Each kernel breaks one rule.
#include <cuda_pipeline.h>
extern "C" __global__ void out_of_bounds(float* a, int n) { a[threadIdx.x + n] = 1.0f; }
extern "C" __global__ void read_out_of_bounds(const float* a, float* out, int n) { out[threadIdx.x] = a[threadIdx.x + n]; }
extern "C" __global__ void misaligned(char* a) { *(float*)(a + 2) = 1.0f; }
extern "C" __global__ void shared_range(float* out, int at) {
    __shared__ float s[32];
    s[threadIdx.x] = 0.0f;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x + at];
}
extern "C" __global__ void shared_unwritten(float* out) {
    __shared__ float s[64];
    s[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x + 32];
}
extern "C" __global__ void race_read(float* out) {
    __shared__ float s[64];
    s[threadIdx.x] = (float)threadIdx.x;
    out[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void race_overwrite(float* out) {
    __shared__ float s[64];
    s[threadIdx.x] = (float)threadIdx.x;
    __syncthreads();
    float x = s[63 - threadIdx.x];
    s[threadIdx.x] = x;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void missing_wait(const float* in, float* out) {
    __shared__ alignas(16) float s[128];
    __pipeline_memcpy_async(&s[threadIdx.x * 4], in + threadIdx.x * 4, 16);
    __pipeline_commit();
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void overwrite_pending(const float* in, float* out) {
    __shared__ alignas(16) float s[128];
    __pipeline_memcpy_async(&s[threadIdx.x * 4], in + threadIdx.x * 4, 16);
    __pipeline_commit();
    s[threadIdx.x * 4] = 1.0f;
    __pipeline_wait_prior(0);
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void divergent_barrier(float* out) {
    if (threadIdx.x < 32) return;
    if (threadIdx.x & 1) asm volatile("barrier.sync 1, 64;");
    out[threadIdx.x] = 1.0f;
}
extern "C" __global__ void exited_barrier(float* out) {
    if (threadIdx.x < 16) return;
    asm volatile("barrier.sync 0, 64;");
    out[threadIdx.x] = 1.0f;
}
extern "C" __global__ void missing_lanes(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(~0u, (int)threadIdx.x, 1);
}
extern "C" __global__ void divide_by_zero(int* out, int zero) { out[threadIdx.x] = (int)threadIdx.x / zero; }
