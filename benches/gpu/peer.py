"""A PyTorch program of the model, imported so that it runs on GPUs, compiled or not: `peer.py FILE ARGUMENT...` runs its `main`."""
import importlib.util
import sys

import torch


def load(path):
    """The program as a module.

    The frequencies of its time features are made without a device, on the processor; they must lie beside the times. torch.compile knows neither the
    default device nor contexts of one in every version, so that it takes the function as a whole.
    """
    spec = importlib.util.spec_from_file_location("peer_program", path)
    sys.modules[spec.name] = peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    exact = peer.ref.time_features

    def time_features(width, t):
        with torch.device(t.device):
            return exact(width, t)
    peer.ref.time_features = torch.compiler.allow_in_graph(time_features)
    return peer


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    load(sys.argv[0]).main()
