"""Records that the notebooks write and the book shows: claims with their verdicts, figures with their provenance.

The book's extensions, the workflow and the notebooks take the schema (``claims``, ``store``), the wording (``words``)
and the places (``paths``) from here.  Nothing here imports JAX, matplotlib or xarray.
"""
