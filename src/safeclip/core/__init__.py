"""What every stage stands on: errors, files, processes, the data contract, taxonomy, guard."""
