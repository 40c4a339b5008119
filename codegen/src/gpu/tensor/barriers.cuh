// Barriers in shared memory (`mbarrier`), which threads tell of something without waiting, and turns of two sets of four warps.

__device__ __forceinline__ void barrier_init(u32 at, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory"); }
__device__ __forceinline__ void barrier_wait(u32 at, u32 parity) {
  asm volatile(
      "{\n.reg .pred there;\n"
      "wait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 there, [%0], %1;\n"
      "@there bra done;\n"
      "bra wait;\n"
      "done:\n}" ::"r"(at), "r"(parity) : "memory");
}
// This phase ends when so many bytes have come.
__device__ __forceinline__ void barrier_expect(u32 at, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_tell(u32 at) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory"); }

// Set `set` of two, 256 units together, may go on, say to use the tensor cores; waits until this one may. Turns are barriers of all of them, for which
// one set waits.
__device__ __forceinline__ void turn_give(u32 set) { asm volatile("bar.arrive %0, 256;" ::"r"(1 + set) : "memory"); }
__device__ __forceinline__ void turn_take(u32 set) { asm volatile("bar.sync %0, 256;" ::"r"(1 + set) : "memory"); }
