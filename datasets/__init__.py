if not __name__.startswith("stvit."):
    raise ImportError(
        "import stvit.datasets, not datasets: the repository root is on sys.path; run from elsewhere or with python -P"
    )
