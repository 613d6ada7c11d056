"""Rival shapes of acoustic model, trained at demo size beside ours: quality against speed at equal training compute."""
