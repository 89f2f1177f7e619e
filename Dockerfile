# growclip in a container: docker build -t growclip . && docker run --gpus all -v "$PWD":/work growclip run ...
FROM python:3.11-slim
WORKDIR /opt/nas_growclip
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt ".[dashboard,postgres,slurm]"
WORKDIR /work
ENTRYPOINT ["growclip"]
