"""Every setting there is, with its default; a comment says what it means, and in which unit."""

from __future__ import annotations

from fvcore.common.config import CfgNode

# Lists that may have any length, with the type of their elements; all others keep the length of their default.
FREE_LISTS: dict[str, type] = {
    "DATA.MEAN": float,
    "DATA.STD": float,
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": float,
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": float,
    "MOVING_MNIST.NUM_DIGITS": int,
    "MOVING_MNIST.TEST_NUM_DIGITS": int,
}

# A subtree whose keys are not known here: the model's own row of settings checks them when the model is built.
FREE_SUBTREE = "MODEL.ARGS"


def default_config() -> CfgNode:
    """A fresh, unfrozen tree of defaults."""
    _C = CfgNode()
    # GPUs of this machine, a process each (tools/main.py starts them); 0 runs on the CPU. torchrun starts as many
    # processes as it is told to: then it is the number of processes on each machine, or 0.
    _C.NUM_GPUS = 1
    # Seed of the weights, of every generated sequence and of dropout.
    _C.RNG_SEED = 0
    # Only algorithms that give the same bits each time; slower on a GPU.
    _C.DETERMINISTIC = False
    # Folder for checkpoints, metrics and pictures.
    _C.OUTPUT_DIR = "output"
    # Optimiser steps between two log lines, at most those of an epoch; also how often losses are checked for NaN and
    # infinity.
    _C.LOG_PERIOD = 50

    _C.MODEL = CfgNode()
    # One of stvit.list_models().
    _C.MODEL.NAME = "mixvit_predictor"
    # Train with BatchNorm as in evaluation: its running statistics normalise and stay as they are.
    _C.MODEL.FROZEN_BN = False
    # Weights to begin from, of any layout, images' too for a network of clips (they are inflated); a classifier for
    # other classes begins at random. Empty: see TRAIN.CHECKPOINT_FILE_PATH, which cannot be given beside it.
    _C.MODEL.INIT = ""
    # Settings of that model that differ from its published row, for example MODEL.ARGS.hidden_spatial.
    _C.MODEL.ARGS = CfgNode(new_allowed=True)
    # Classes of a classifier.
    _C.MODEL.NUM_CLASSES = 1000
    # Recompute the blocks' activations in the backward pass instead of keeping them: less memory, more time.
    _C.MODEL.ACT_CHECKPOINT = False

    _C.BN = CfgNode()
    # batchnorm: each process normalises by its own samples; sync_batchnorm: by those of all (on GPUs).
    _C.BN.NORM_TYPE = "batchnorm"

    _C.DATA = CfgNode()
    # What the model learns from: moving_mnist; imagenet (folders of images, one a class); kinetics (lists of labelled
    # videos, or folders of them, one a class; clips of frames a constant time apart); ssv2 (the same, but a clip has
    # one frame of each of DATA.NUM_FRAMES equal parts of its video).
    _C.DATA.DATASET = "moving_mnist"
    # Folder of the raw files (for Moving MNIST: the idx files of MNIST, mnist_test_seq.npy; for imagenet: train/, val/
    # and test/ with a folder a class; for videos: train.csv, val.csv and test.csv with a path and a label a line, or
    # folders as for imagenet).
    _C.DATA.PATH_TO_DATA_DIR = "data"
    # Folder for sets that are made once; empty: a folder inside PATH_TO_DATA_DIR.
    _C.DATA.CACHE_DIR = ""
    # Fetch missing files into PATH_TO_DATA_DIR.
    _C.DATA.DOWNLOAD = False

    # Mean and standard deviation of the channels in [0, 1], by which images are normalised; empty: the model's own,
    # which are those of the checkpoint that is evaluated if it is one of stvit's, otherwise the published ones.
    _C.DATA.MEAN = []
    _C.DATA.STD = []
    # Side of the square that the network trains on, pixels; its position tables are made for it.
    _C.DATA.TRAIN_CROP_SIZE = 224
    # Side of the central square that it is evaluated on, pixels.
    _C.DATA.TEST_CROP_SIZE = 224
    # Evaluation resizes images to TEST_CROP_SIZE over this before it cuts out the centre; 0: the model's own, as above.
    # Of clips the own one is for its own number of crops; with another TEST.NUM_SPATIAL_CROPS 0 stands for SlowFast's,
    # 0.875 with one crop and 1 with three.
    _C.DATA.VAL_CROP_RATIO = 0.0
    # What gets that size: the short side (center), or both sides whatever the image's shape (squash); empty: the
    # model's own.
    _C.DATA.VAL_CROP_MODE = ""
    # Mirror half of the training images or clips; False where classes differ by left and right.
    _C.DATA.RANDOM_FLIP = True
    # Training crops have a random share of the image's or frame's area, between these two. Of clips, empty: see
    # TRAIN_JITTER_SCALES.
    _C.DATA.TRAIN_JITTER_SCALES_RELATIVE = [0.08, 1.0]
    # Frames of a clip; video networks only, as all keys of DATA from here on.
    _C.DATA.NUM_FRAMES = 16
    # kinetics: the spacing of a clip's frames, in frames of a video of TARGET_FPS frames a second.
    _C.DATA.SAMPLING_RATE = 4
    _C.DATA.TARGET_FPS = 30.0
    # Training draws the speed of each clip from TARGET_FPS to so much above it.
    _C.DATA.TRAIN_JITTER_FPS = 0.0
    # Whether the last of several test clips ends with the video; False: they begin at equal parts of it (SlowFast's).
    _C.DATA.USE_OFFSET_SAMPLING = True
    # The lowest and highest width over height of a training crop that has a random area.
    _C.DATA.TRAIN_JITTER_ASPECT_RELATIVE = [0.75, 1.3333]
    # Where TRAIN_JITTER_SCALES_RELATIVE is empty, the crop has a random place and the frame's short side a length drawn
    # between these two, pixels, at least TRAIN_CROP_SIZE; whether its inverse is drawn evenly instead.
    _C.DATA.TRAIN_JITTER_SCALES = [256, 320]
    _C.DATA.INV_UNIFORM_SAMPLE = False
    # What relative paths in lists are relative to; empty: the list's folder.
    _C.DATA.PATH_PREFIX = ""
    # What stands between path and label in lists; empty: told from the list (space, comma or tab).
    _C.DATA.PATH_LABEL_SEPARATOR = ""
    # File with the names of the classes, a line each, in the order of their numbers; lists may then name classes.
    _C.DATA.LABEL_FILE = ""
    # Library that decodes: auto (pyav), pyav, decord or torchcodec.
    _C.DATA.DECODER = "auto"
    # What training does with a video that cannot be decoded: raise stops; skip leaves it out of its batch; replace
    # takes another one of the list. Evaluation stops with raise, and otherwise counts it as a mistake.
    _C.DATA.ON_BAD_VIDEO = "raise"
    # More of the list's videos than this, in percent, stop the run in any case.
    _C.DATA.MAX_BAD_PERCENT = 1.0

    # Augmentation of training images; a random crop and a flip are always there.
    _C.AUG = CfgNode()
    # RandAugment, as timm writes it: rand-mMAGNITUDE-nOPERATIONS-mstdSPREAD-inc1; empty: none.
    _C.AUG.AA_TYPE = "rand-m9-n6-mstd0.5-inc1"
    # Strength of random brightness, contrast and saturation; used where AA_TYPE is empty.
    _C.AUG.COLOR_JITTER = 0.4
    # Of resizing, in evaluation too: bicubic or bilinear. random: each training view draws one of them, and evaluation
    # has the model's own.
    _C.AUG.INTERPOLATION = "bicubic"
    # Augmented views of each image in a batch, which grows by them (SlowFast's repeated augmentation).
    _C.AUG.NUM_SAMPLE = 1
    # Augmented views of each image in an epoch, which has as many samples as ever, of fewer images (DeiT's and timm's
    # repeated augmentation).
    _C.AUG.REPEATS = 1
    # Random erasing: its probability, what fills the holes (pixel: noise, rand: one colour, const: black), and the
    # highest number of holes.
    _C.AUG.RE_PROB = 0.25
    _C.AUG.RE_MODE = "pixel"
    _C.AUG.RE_COUNT = 1

    # Training on mixtures of two images and their labels.
    _C.MIXUP = CfgNode()
    _C.MIXUP.ENABLE = True
    # Of the beta distribution of the shares; 0: no mixup.
    _C.MIXUP.ALPHA = 0.8
    # The same of CutMix; 0: none.
    _C.MIXUP.CUTMIX_ALPHA = 1.0
    # Probability that a batch is mixed at all.
    _C.MIXUP.PROB = 1.0
    # Probability of CutMix where both are on.
    _C.MIXUP.SWITCH_PROB = 0.5
    # Label smoothing, with mixing or without.
    _C.MIXUP.LABEL_SMOOTH_VALUE = 0.1

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
    # Make the training sequences on the training device, many batches at a time, instead of in loader workers; the
    # same bits.
    _C.MOVING_MNIST.ON_DEVICE = False

    _C.DATA_LOADER = CfgNode()
    # Worker processes; 0 loads in the training process.
    _C.DATA_LOADER.NUM_WORKERS = 2
    # Page-locked host memory, for faster copies to a GPU; without meaning on the CPU.
    _C.DATA_LOADER.PIN_MEMORY = True

    _C.TRAIN = CfgNode()
    _C.TRAIN.ENABLE = True
    # Samples that go through the network at once, in all processes together: each takes its equal part of them.
    _C.TRAIN.BATCH_SIZE = 16
    # Batches whose gradients are averaged into one optimiser step.
    _C.TRAIN.ACCUMULATE_STEPS = 1
    # Epochs between two validations.
    _C.TRAIN.EVAL_PERIOD = 1
    # Epochs between two writes of checkpoints/last.pt.
    _C.TRAIN.CHECKPOINT_PERIOD = 1
    # Optimiser steps between two writes of it inside an epoch; 0: only at the ends of epochs.
    _C.TRAIN.CHECKPOINT_STEPS = 0
    # Weights to start from, in any layout that stvit.load_checkpoint reads, or builtin; empty: random ones.
    _C.TRAIN.CHECKPOINT_FILE_PATH = ""
    # Leave the classifier at random where those weights are for other classes; False refuses them.
    _C.TRAIN.NEW_HEAD = False
    # Continue from OUTPUT_DIR/checkpoints/last.pt when there is one; False refuses a folder that has one.
    _C.TRAIN.AUTO_RESUME = True
    # Numbers the network computes in: auto (bf16 where the GPU has it, otherwise fp32), fp32, bf16 or fp16.
    _C.TRAIN.PRECISION = "auto"
    # torch.compile the training step's network.
    _C.TRAIN.COMPILE = False
    # Keep the channels of weights and maps next to each other in memory; faster convolutions on many GPUs.
    _C.TRAIN.CHANNELS_LAST = False
    # One GPU: record forward and backward once and replay them, so that launching their kernels costs no time.
    _C.TRAIN.CUDA_GRAPHS = False

    _C.SOLVER = CfgNode()
    # sgd or adam (weight decay added to the gradient) or adamw (decoupled).
    _C.SOLVER.OPTIMIZING_METHOD = "adam"
    # Highest learning rate of the run.
    _C.SOLVER.BASE_LR = 1e-3
    # Samples in an optimiser step (TRAIN.BATCH_SIZE x TRAIN.ACCUMULATE_STEPS) that BASE_LR, WARMUP_START_LR and
    # COSINE_END_LR are meant for; they grow and shrink in proportion. 0: they are used as they stand.
    _C.SOLVER.BASE_LR_BATCH_SIZE = 0
    # adam and adamw: decay of the running means of gradient and squared gradient; onecycle swings the first itself.
    _C.SOLVER.BETAS = [0.9, 0.999]
    # sgd: decay of the running sum of gradients, the share of a new one that is left out, and whether to look ahead.
    _C.SOLVER.MOMENTUM = 0.9
    _C.SOLVER.DAMPENING = 0.0
    _C.SOLVER.NESTEROV = True
    _C.SOLVER.WEIGHT_DECAY = 0.0
    # It spares biases, norms and other weights of one axis.
    _C.SOLVER.ZERO_WD_1D_PARAM = True
    # It spares what the model's no_weight_decay() names: position tables and class tokens.
    _C.SOLVER.ZERO_WD_POS_CLS = True
    # Learning rate of a block over that of the next one, for fine-tuning; 1: all learn alike.
    _C.SOLVER.LAYER_DECAY = 1.0
    # onecycle or cosine (with linear warm-up), per optimiser step.
    _C.SOLVER.LR_POLICY = "onecycle"
    _C.SOLVER.MAX_EPOCH = 200
    # cosine: epochs (fractions allowed) of a linear rise that comes from WARMUP_START_LR and leads to BASE_LR; the
    # first step is one stride above WARMUP_START_LR already, so that none is wasted on a rate of 0.
    _C.SOLVER.WARMUP_EPOCHS = 0.0
    _C.SOLVER.WARMUP_START_LR = 0.0
    # cosine: the descent starts when the warm-up has ended; False: it has gone on since the first step, so that the
    # warm-up leads to a point of it below BASE_LR.
    _C.SOLVER.COSINE_AFTER_WARMUP = True
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
    # Samples at once, in validation too; in all processes together, where several evaluate.
    _C.TEST.BATCH_SIZE = 16
    # Weights to evaluate, in any layout that stvit.load_checkpoint reads, or builtin; empty: the best of this run.
    _C.TEST.CHECKPOINT_FILE_PATH = ""
    # Videos: clips spread over each whose scores are averaged, and crops of each clip (1: the centre; 3: the longer
    # side's beginning, middle and end). Their short side is DATA.TEST_CROP_SIZE over DATA.VAL_CROP_RATIO.
    _C.TEST.NUM_ENSEMBLE_VIEWS = 5
    _C.TEST.NUM_SPATIAL_CROPS = 1
    # Evaluate simple extrapolations (all black, last frame, ...) beside the model.
    _C.TEST.BASELINES = True

    _C.TENSORBOARD = CfgNode()
    # Write OUTPUT_DIR/tensorboard.
    _C.TENSORBOARD.ENABLE = False
    return _C
