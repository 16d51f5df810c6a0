"""The anyio driver: publishing, threads, shutdown, authentication, the journal, cancellation."""
