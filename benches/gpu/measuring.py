"""How PyTorch is measured: warm, by CUDA events, with inputs that no cache has kept, replayed as a CUDA graph where that can be done."""
import statistics
import time


def first_line(e):
    return next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)


class Device:
    """Where PyTorch runs, and its clock."""

    def __init__(self, torch, dry):
        self.torch, self.cuda = torch, not dry
        self.name = torch.cuda.get_device_name() if self.cuda else "the processor"
        cache = torch.cuda.get_device_properties(0).L2_cache_size if self.cuda else 0
        self.rotate = 2 * cache if self.cuda else 1 << 14

    def copies(self, read):
        most = 256
        if self.cuda:
            most = min(most, int(self.torch.cuda.mem_get_info()[0] * 0.4) // max(read, 1))
        return max(1, min(-(-self.rotate // max(read, 1)), most))

    def runs(self, run, milliseconds):
        """Seconds of each of several runs."""
        if not self.cuda:
            times = []
            for _ in range(3):
                begin = time.perf_counter()
                run()
                times.append(time.perf_counter() - begin)
            return times
        event = lambda: self.torch.cuda.Event(enable_timing=True)

        def timed():
            begin, end = event(), event()
            begin.record()
            run()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3
        first = timed()
        count = int(min(max(milliseconds / 1e3 / max(first, 1e-7), 5), 1000))
        return [timed() for _ in range(count)]

    def captured(self, run):
        """The runs as a CUDA graph, or as they are where they cannot be captured."""
        if not self.cuda:
            return run
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                run()
            graph.replay()
            self.torch.cuda.synchronize()
            return graph.replay
        except RuntimeError:
            self.torch.cuda.synchronize()
            return run

    def recording(self, case):
        """Gradients are recorded only where a case is one."""
        return self.torch.enable_grad() if case.id.endswith("gradient") else self.torch.no_grad()


def agree(first, got, name):
    """Takes the first form's result, and refuses others that are not the same but for rounding."""
    got = got[0] if isinstance(got, tuple) else got
    if got is None or first is None:
        return got
    off = ((got.double() - first.double()).norm() / first.double().norm()).item()
    if not off < 3e-2:
        raise ValueError(f"{name} computes something else: relative L2 {off:.1e}")
    return first


def measure(case, device, milliseconds, only=None):
    """Seconds of each form of a case, or of the one form `only`; what does not run here is left out, with the reason."""
    torch = device.torch
    sets = [case.make() for _ in range(device.copies(case.read))]
    times, ranges, refused, first = {}, {}, {}, None
    for name, form in case.forms.items():
        if only not in (None, name):
            continue

        def run():
            for inputs in sets:
                form(*inputs)
        try:
            with device.recording(case):
                first = agree(first, form(*sets[0]), name)
                for _ in range(2):
                    run()
                measured = device.captured(run) if case.graph else run
                seconds = [s / len(sets) for s in device.runs(measured, milliseconds)]
            times[name], ranges[name] = statistics.median(seconds), [min(seconds), max(seconds)]
        except Exception as e:  # noqa: BLE001: a form that this PyTorch lacks is no failure of the comparison
            refused[name] = first_line(e)
    del sets
    if device.cuda:
        torch.cuda.empty_cache()
    best = min(times, key=times.get) if times else None
    return {"id": case.id, "best": best, "best_s": times.get(best), "forms": times, "range_s": ranges, "refused": refused}


def compile_forms(case, device):
    """Runs each form of a case once, so that what PyTorch compiles is in its cache; what does not run is told when it is measured."""
    inputs = case.make()
    for form in case.forms.values():
        try:
            with device.recording(case):
                form(*inputs)
        except Exception:  # noqa: BLE001
            pass
