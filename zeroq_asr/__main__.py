"""``python -m zeroq_asr`` is the command ``zeroq-asr``."""

from zeroq_asr.cli import main

if __name__ == "__main__":
    main()
