"""Exports a trained model: StableHLO and ONNX of the whole, of its processing and of its head."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("export")
