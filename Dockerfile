# docker build -t stablediff . && docker run -p 7860:7860 stablediff
FROM python:3.11-slim

# A volume that is mounted at /data, for visitors' pictures, belongs to whom this folder belongs.
RUN useradd --uid 1000 --create-home app && mkdir /data && chown app /data
WORKDIR /home/app/stablediff

COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt

COPY demo.py LICENSE ./
COPY stablediff stablediff

USER app
ENV GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860 PYTHONUNBUFFERED=1
EXPOSE 7860
STOPSIGNAL SIGINT
CMD ["python", "demo.py"]
