// Lets later kernels begin, which wait for this one's end themselves, and waits for the end of earlier ones (programmatic dependent launch). Every unit
// does so before it touches global memory, and before it ends: later kernels take earlier ones for done.
__device__ __forceinline__ void in_turn() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}
