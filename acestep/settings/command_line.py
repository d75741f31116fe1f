"""The flags of the server. Imports nothing else, so that `--help` answers at once."""

from __future__ import annotations

import argparse


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="acestep-api",
        description="Serve music generation with ACE-Step 1.5 over HTTP.",
        epilog="Everything else is set by ACESTEP_* variables, in the environment or in .env: "
        "see docs/configuration.md.",
    )
    parser.add_argument("--host", dest="api_host", help="address to listen on (ACESTEP_API_HOST, 127.0.0.1)")
    parser.add_argument("--port", dest="api_port", help="port to listen on (ACESTEP_API_PORT, 8001)")
    parser.add_argument("--api-key", help="key that clients must send (ACESTEP_API_KEY, none)")
    parser.add_argument("--download-source", help="where models come from (ACESTEP_DOWNLOAD_SOURCE, auto)")
    parser.add_argument(
        "--init-llm", nargs="?", const="true", help="load the planner: true, false (ACESTEP_INIT_LLM, auto)"
    )
    parser.add_argument("--lm-model-path", help="planner to load (ACESTEP_LM_MODEL_PATH)")
    parser.add_argument(
        "--gpu-mapping", help="GPUs of models and planner: auto, single:N, dit:N,lm:M (ACESTEP_GPU_MAPPING)"
    )
    parser.add_argument("--list-gpus", action="store_true", help="list the CUDA devices, and end")
    parser.add_argument(
        "--check",
        action="store_true",
        help="check settings, songs and job database, and end (0: all is well)",
    )
    return parser
