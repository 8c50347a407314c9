from hypothesis import settings

# A busy machine is no defect: no deadline.  The suite stays fast by its numbers of examples.
settings.register_profile("ftfw", deadline=None, max_examples=60)
settings.load_profile("ftfw")
