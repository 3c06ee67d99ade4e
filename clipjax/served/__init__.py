"""A vision-language model that a server of OpenAI's protocol runs: questions and pictures go there.

    client      requests, with the key of the environment, which no message contains
    identity    which server and model it is, without its address
    replies     the body of a request, and the checks of an answer
    letters     log-probabilities of letters from the likeliest first tokens
    probe       what the server gives, found by a few requests with drawn pictures
    likelihood  log-probabilities of a given answer
    pace        how many requests at once
    stored      answers in the store, a file per image
    asking      all images, in threads; retries, checks and an end after failures in a row

Imports no JAX.
"""
