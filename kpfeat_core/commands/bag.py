"""`kpfeat bag`: recordings to features, matches, pictures and numbers."""

import typer

from . import bag_extract, bag_info, bag_match, bag_render, bag_stats
from .common import prose

app = typer.Typer(
    help='Recordings to features, matches, pictures and numbers.', no_args_is_help=True
)
for name, function, epilog in (
    ('info', bag_info.info, bag_info.EPILOG),
    ('extract', bag_extract.extract, bag_extract.EPILOG),
    ('match', bag_match.match, bag_match.EPILOG),
    ('render', bag_render.render, bag_render.EPILOG),
    ('stats', bag_stats.stats, bag_stats.EPILOG),
):
    app.command(name, help=prose(function), epilog=epilog)(function)
