"""What is generated: the names that a marker in a page may have."""

from __future__ import annotations

from docs.generate.claims import claims_part
from docs.generate.commands import commands_part
from docs.generate.comparisons import comparisons_part
from docs.generate.config_files import config_files_part
from docs.generate.corruptions import corruptions_part
from docs.generate.data_sets import data_sets_part, files_part, places_part
from docs.generate.figures import curation_part, figure_columns_part, figures_part
from docs.generate.forms import forms_part, versions_part
from docs.generate.models import facts_part, families_part, models_part, open_clip_part
from docs.generate.predictions import predictions_part
from docs.generate.published_sources import published_sources_part
from docs.generate.python import metrics_part, python_part
from docs.generate.refusals import refusals_part
from docs.generate.result_row import result_row_part
from docs.generate.stage import Parts

PARTS: Parts = {
    "claims": claims_part,
    "commands": commands_part,
    "comparisons": comparisons_part,
    "config_files": config_files_part,
    "corruptions": corruptions_part,
    "curation": curation_part,
    "data_sets": data_sets_part,
    "facts": facts_part,
    "families": families_part,
    "figure_columns": figure_columns_part,
    "figures": figures_part,
    "files": files_part,
    "forms": forms_part,
    "metrics": metrics_part,
    "models": models_part,
    "open_clip": open_clip_part,
    "places": places_part,
    "predictions": predictions_part,
    "published_sources": published_sources_part,
    "python": python_part,
    "refusals": refusals_part,
    "result_row": result_row_part,
    "versions": versions_part,
}
