"""Other codes' files. ``deepmd`` exchanges DeepSPIN models with DeePMD-kit; nothing here imports the other code."""
