"""What two or more rooms need: errors, types, settings, workspace, stats, models, engines, jobs, command line."""
