"""Model and dataset in, metrics beside their chance level out; never knows the trainer."""
