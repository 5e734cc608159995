"""Every setting there is, with its default; a comment says what it means, and in which unit."""

from __future__ import annotations

from fvcore.common.config import CfgNode

# Lists that may have any length, with the type of their elements; all others keep the length of their default.
FREE_LISTS: dict[str, type] = {"MOVING_MNIST.NUM_DIGITS": int, "MOVING_MNIST.TEST_NUM_DIGITS": int}

# A subtree whose keys are not known here: the model's own row of settings checks them when the model is built.
FREE_SUBTREE = "MODEL.ARGS"


def default_config() -> CfgNode:
    """A fresh, unfrozen tree of defaults."""
    _C = CfgNode()
    # Processes, one a GPU; 0 runs on the CPU.
    _C.NUM_GPUS = 1
    # Seed of the weights, of every generated sequence and of dropout.
    _C.RNG_SEED = 0
    # Only algorithms that give the same bits each time; slower on a GPU.
    _C.DETERMINISTIC = False
    # Folder for checkpoints, metrics and pictures.
    _C.OUTPUT_DIR = "output"
    # Optimiser steps between two log lines; also how often losses are checked for NaN and infinity.
    _C.LOG_PERIOD = 50

    _C.MODEL = CfgNode()
    # One of stvit.list_models().
    _C.MODEL.NAME = "mixvit_predictor"
    # Settings of that model that differ from its published row, for example MODEL.ARGS.hidden_spatial.
    _C.MODEL.ARGS = CfgNode(new_allowed=True)

    _C.DATA = CfgNode()
    # What the model learns from: moving_mnist.
    _C.DATA.DATASET = "moving_mnist"
    # Folder of the raw files (for Moving MNIST: the idx files of MNIST, mnist_test_seq.npy).
    _C.DATA.PATH_TO_DATA_DIR = "data"
    # Folder for sets that are made once; empty: a folder inside PATH_TO_DATA_DIR.
    _C.DATA.CACHE_DIR = ""
    # Fetch missing files into PATH_TO_DATA_DIR.
    _C.DATA.DOWNLOAD = False

    _C.MOVING_MNIST = CfgNode()
    # Source of the digits: mnist (70,000, needs files) or sklearn (1,797 that scikit-learn ships).
    _C.MOVING_MNIST.DIGITS = "mnist"
    # Digits in a sequence; of several numbers each sequence draws one.
    _C.MOVING_MNIST.NUM_DIGITS = [2]
    # The same for the test set; empty: as in training.
    _C.MOVING_MNIST.TEST_NUM_DIGITS = []
    # Side of the square canvas, pixels.
    _C.MOVING_MNIST.IMAGE_SIZE = 64
    # Side of a digit, pixels.
    _C.MOVING_MNIST.DIGIT_SIZE = 28
    # Frames the model sees.
    _C.MOVING_MNIST.FRAMES_IN = 10
    # Frames it predicts.
    _C.MOVING_MNIST.FRAMES_OUT = 10
    # Path of a digit from one frame to the next, as a fraction of the room it has (IMAGE_SIZE - DIGIT_SIZE).
    _C.MOVING_MNIST.STEP = 0.1
    # Sequences in an epoch; new ones each epoch.
    _C.MOVING_MNIST.TRAIN_SEQUENCES = 10000
    # Sequences of the fixed set, from training digits, on which the best checkpoint is chosen.
    _C.MOVING_MNIST.VAL_SEQUENCES = 2000
    # Test sequences; of a published test file, so many from its beginning.
    _C.MOVING_MNIST.TEST_SEQUENCES = 10000
    # Choose the best checkpoint on the test set, as published results did; only for comparison with them.
    _C.MOVING_MNIST.VALIDATE_ON_TEST = False
    # Make the training sequences on the training device instead of in loader workers.
    _C.MOVING_MNIST.ON_DEVICE = False

    _C.DATA_LOADER = CfgNode()
    # Worker processes; 0 loads in the training process.
    _C.DATA_LOADER.NUM_WORKERS = 2
    # Page-locked host memory, for faster copies to a GPU; without meaning on the CPU.
    _C.DATA_LOADER.PIN_MEMORY = True

    _C.TRAIN = CfgNode()
    _C.TRAIN.ENABLE = True
    # Samples that go through the network at once.
    _C.TRAIN.BATCH_SIZE = 16
    # Batches whose gradients are averaged into one optimiser step.
    _C.TRAIN.ACCUMULATE_STEPS = 1
    # Epochs between two validations.
    _C.TRAIN.EVAL_PERIOD = 1
    # Epochs between two writes of checkpoints/last.pt.
    _C.TRAIN.CHECKPOINT_PERIOD = 1
    # Optimiser steps between two writes of it inside an epoch; 0: only at the ends of epochs.
    _C.TRAIN.CHECKPOINT_STEPS = 0
    # Weights to start from, in any layout that stvit.load_checkpoint reads; empty: random ones.
    _C.TRAIN.CHECKPOINT_FILE_PATH = ""
    # Continue from OUTPUT_DIR/checkpoints/last.pt when there is one; False refuses a folder that has one.
    _C.TRAIN.AUTO_RESUME = True
    # Numbers the network computes in: auto (bf16 where the GPU has it, otherwise fp32), fp32, bf16 or fp16.
    _C.TRAIN.PRECISION = "auto"
    # torch.compile the training step's network.
    _C.TRAIN.COMPILE = False
    # Keep the channels of weights and maps next to each other in memory; faster convolutions on many GPUs.
    _C.TRAIN.CHANNELS_LAST = False

    _C.SOLVER = CfgNode()
    # adam (weight decay added to the gradient) or adamw (decoupled).
    _C.SOLVER.OPTIMIZING_METHOD = "adam"
    # Highest learning rate of the run.
    _C.SOLVER.BASE_LR = 1e-3
    # Decay of the running means of gradient and squared gradient; onecycle swings the first itself.
    _C.SOLVER.BETAS = [0.9, 0.999]
    # Not applied to biases, norms and what the model's no_weight_decay() names.
    _C.SOLVER.WEIGHT_DECAY = 0.0
    # onecycle or cosine (with linear warm-up), per optimiser step.
    _C.SOLVER.LR_POLICY = "onecycle"
    _C.SOLVER.MAX_EPOCH = 200
    # cosine: epochs (fractions allowed) of a linear rise that comes from WARMUP_START_LR and leads to BASE_LR; the
    # first step is one stride above WARMUP_START_LR already, so that none is wasted on a rate of 0.
    _C.SOLVER.WARMUP_EPOCHS = 0.0
    _C.SOLVER.WARMUP_START_LR = 0.0
    # cosine: the last learning rate.
    _C.SOLVER.COSINE_END_LR = 0.0
    # onecycle: fraction of the run in which the learning rate rises.
    _C.SOLVER.ONECYCLE_PCT_START = 0.3
    # onecycle: BASE_LR over the first learning rate.
    _C.SOLVER.ONECYCLE_DIV = 25.0
    # onecycle: the first learning rate over the last.
    _C.SOLVER.ONECYCLE_FINAL_DIV = 1e4
    # Largest L2 norm of all gradients together; 0: no clipping.
    _C.SOLVER.CLIP_GRAD_L2NORM = 0.0
    # Decay per step of a running mean of the weights, which is then what is evaluated; 0: none.
    _C.SOLVER.EMA_DECAY = 0.0

    _C.TEST = CfgNode()
    # Evaluate on the test set at the end.
    _C.TEST.ENABLE = True
    # Samples at once, in validation too.
    _C.TEST.BATCH_SIZE = 16
    # Weights to evaluate, in any layout that stvit.load_checkpoint reads; empty: the best of this run.
    _C.TEST.CHECKPOINT_FILE_PATH = ""
    # Evaluate simple extrapolations (all black, last frame, ...) beside the model.
    _C.TEST.BASELINES = True

    _C.TENSORBOARD = CfgNode()
    # Write OUTPUT_DIR/tensorboard.
    _C.TENSORBOARD.ENABLE = False
    return _C
