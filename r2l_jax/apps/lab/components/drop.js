(box, upload) => {
  const target = document.getElementById(box);
  const over = (on) => target.classList.toggle("lab-dropping", on);
  document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    getElement(upload).$refs.qRef.addFiles(event.dataTransfer.files);
  });
}
