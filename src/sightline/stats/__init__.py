"""Intervals and tests: arrays in, small values out. What is not defined is None, never NaN."""

from sightline.stats.effects import (
    cohens_d,  # Cohen 1988; Hedges 1981
    cohens_h,  # Cohen 1988
    images_needed,
    mcnemar_images_needed,  # Connor 1987
    rank_biserial,  # Kerby 2014
)
from sightline.stats.multiple import benjamini_hochberg, holm  # 1995; 1979
from sightline.stats.paired import McNemar, Test, mcnemar, permutation, wilcoxon  # 1947; Fisher 1935; 1945
from sightline.stats.resampling import (
    RESAMPLES,
    bootstrap,  # Efron and Tibshirani 1993; BCa: Efron 1987
    mean_interval,
    paired_bootstrap,
    proportion_interval,  # Wilson 1927
)
from sightline.stats.roc import DeLong, delong  # DeLong et al. 1988; Sun and Xu 2014
from sightline.stats.runs import Seeds, corrected_t, paired_runs, seeds  # Nadeau and Bengio 2003
from sightline.stats.statistics import (
    Statistic,
    f1_overall,
    f1_per_class,
    macro_auroc,
    macro_f1,
    means,
    multilabel_auroc,
    pooled_means,
    worst_group,
)
from sightline.stats.values import Array, Difference, Interval

__all__ = [
    "RESAMPLES",
    "Array",
    "DeLong",
    "Difference",
    "Interval",
    "McNemar",
    "Seeds",
    "Statistic",
    "Test",
    "benjamini_hochberg",
    "bootstrap",
    "cohens_d",
    "cohens_h",
    "corrected_t",
    "delong",
    "f1_overall",
    "f1_per_class",
    "holm",
    "images_needed",
    "macro_auroc",
    "macro_f1",
    "mcnemar",
    "mcnemar_images_needed",
    "mean_interval",
    "means",
    "multilabel_auroc",
    "paired_bootstrap",
    "paired_runs",
    "permutation",
    "pooled_means",
    "proportion_interval",
    "rank_biserial",
    "seeds",
    "wilcoxon",
    "worst_group",
]
