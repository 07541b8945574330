"""Masks drawn in a browser, by one person or several, into a folder of images."""

from sightline.annotate.adopt import adopt
from sightline.annotate.answers import Answers, Insight
from sightline.annotate.project import Project, alone
from sightline.annotate.server import serve

__all__ = ["Answers", "Insight", "Project", "adopt", "alone", "serve"]
